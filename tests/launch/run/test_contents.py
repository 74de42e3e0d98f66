"""The contents of a run directory: the order of its simulator versions."""

from __future__ import annotations

import os
import random
import shutil

from launch.reports.inputs import read_inputs
from launch.run.contents import simulated_versions, version_order
from rlenv.data.sessions import write_sessions
from rlenv.population.corpus import generate_sessions

VERSIONS = ["gpt-4o", "base", *(f"it{k}" for k in range(1, 12))]


def test_versions_are_ordered_by_iteration_and_not_alphabetically():
    shuffled = random.Random(0).sample(VERSIONS, len(VERSIONS))
    assert sorted(shuffled, key=version_order) == VERSIONS


def test_a_copied_run_with_other_file_times_keeps_the_order_of_its_versions(tmp_path):
    sessions = generate_sessions(2, 1, 0)
    write_sessions(tmp_path / "run/data/evaluation.jsonl.gz", sessions)
    for version in VERSIONS:
        write_sessions(tmp_path / "run" / version / "simulated/sessions.jsonl", sessions)
    copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    times = random.Random(1).sample(range(1000), len(VERSIONS))
    for version, time in zip(VERSIONS, times, strict=True):
        for path in (copy / version / "simulated", copy / version / "simulated/sessions.jsonl"):
            os.utime(path, (time, time))
    assert simulated_versions(copy) == VERSIONS
    assert [s.name for s in read_inputs([str(copy)], [], part=None).simulators] == VERSIONS
