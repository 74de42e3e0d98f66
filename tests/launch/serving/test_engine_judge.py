"""``rlenv annotate --judge engine`` with a real model on real vLLM: a poor judge, but its replies follow the schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launch.cli.main import app
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Message
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.population.corpus import generate_sessions

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.exhaustive,  # the grammar, the prompts and the answers of a judge are tested without an engine
    pytest.mark.xdist_group("smollm2"),
    pytest.mark.usefixtures("local_ray"),
]

TAXONOMY = {
    "actions": {"good": {"thanks": ["Thanks", "The user thanks the chatbot."]},
                "bad": {"objects": ["Objects", "The user disagrees with the chatbot."]}},
    "issues": {"user_confusion": {"repeats": ["Repeats", "The chatbot says the same thing again."],
                                  "cold": ["Cold", "The chatbot's reply is blunt."]}},
}  # fmt: skip


def test_a_model_on_vllm_labels_sessions_with_every_reply_under_the_schema(smollm2: Path, tmp_path: Path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(TAXONOMY))
    sessions = [
        s.model_copy(update={"messages": tuple(Message(role=m.role, content=m.content) for m in s.messages[:4])})
        for s in generate_sessions(2, 1, seed=3)
    ]
    write_sessions(tmp_path / "in.jsonl", sessions)
    asked = ["annotate", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--judge", "engine", "--engine-model", smollm2]
    asked += ["--taxonomy", tmp_path / "own.yaml", "--input-tokens", "1024", "--max-tokens", "160"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, asked)])
    assert done.exit_code == 0, done.output[-2000:]

    replies = [json.loads(path.read_text())["text"] for path in (tmp_path / "out.jsonl.cache").rglob("*.json")]
    num_users = sum(m.role == "user" for s in sessions for m in s.messages)
    assert len(replies) == num_users + len(sessions)  # no reply was malformed and sampled again
    taxonomy = load_taxonomy(tmp_path / "own.yaml")
    for reply in map(json.loads, replies):
        ((kind, found),) = reply.items()
        known = taxonomy.action_ids() if kind == "actions" else taxonomy.issue_ids()
        assert {entry if kind == "actions" else entry["category"] for entry in found} <= set(known)

    labelled = read_sessions(tmp_path / "out.jsonl", neighbours="keep")
    for session in labelled:
        assert "smollm2" in session.judges["issues"] and "smollm2" in session.judges["actions"]
        assert all((m.actions if m.role == "user" else m.issues) is not None for m in session.messages)
