"""How a run splits its data: the sessions that it leaves out, and its counts."""

from __future__ import annotations

import json

from launch.adversarial.phases import prepare_data
from launch.run.config.data import DataConfig
from launch.run.directory import RunDirectory
from rlenv.core.types import Session
from rlenv.data.sessions import write_sessions
from rlenv.population.corpus import generate_sessions


def test_sessions_without_messages_are_left_out_and_counted_separately_from_short_ones(tmp_path):
    sessions = generate_sessions(12, 1, 0)
    short = sessions[0].model_copy(update={"session_id": "short", "messages": sessions[0].messages[:1]})
    empty = [Session(session_id=f"empty-{i}") for i in range(3)]
    write_sessions(tmp_path / "all.jsonl", [*sessions, short, *empty])
    config = DataConfig(
        path=str(tmp_path / "all.jsonl"),
        min_user_turns=2,
        sft_share=0.4,
        adversarial_share=0.3,
        evaluation_share=0.3,
    )
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    parts = prepare_data(run, config, seed=0)
    counts = json.loads((run.root / "data/counts.json").read_text())
    assert (counts["without_messages"], counts["too_short"]) == (3, 1)
    assert sorted(s.session_id for part in parts.values() for s in part) == sorted(s.session_id for s in sessions)
