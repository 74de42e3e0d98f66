"""Random kills of a run, and that the page on faults names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.chaos import chaos

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_processes_are_killed_at_random_ends_with_the_files_of_an_undisturbed_one(tmp_path):
    came = chaos(3, 0, tmp_path)
    assert came["kills"] == 3 and came["differing files"] == []
    assert set(came["drivers ended early"]) <= {"killed", "message"}


def test_every_test_that_the_page_on_faults_names_exists():
    named = NAMED.findall((ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 25
    there = {path: {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(node, "name")}
             for path, _ in named}  # fmt: skip
    assert [f"{path}::{name}" for path, name in named if name not in there[path]] == []
