"""Planted sentences: what a model was trained on many times has a high exposure, what it never saw has none."""

from __future__ import annotations

import random

import pytest
import torch
from typer.testing import CliRunner

from launch.cli.main import app
from launch.privacy import cards
from launch.privacy.cards import complete_card
from launch.privacy.exposure import Exposure, exposures
from launch.run.directory import RunDirectory
from launch.run.settings import load_config, to_dict
from rlenv.core.errors import ConfigError
from rlenv.core.types import Session, SessionContext
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.evaluation.exposure import MARK, candidates, exposure, mark_of, plant, with_sentence
from rlenv.models.named import population_llama
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.system_texts import approximate_tokens, simulator_system_text
from trainers.backend.worker import Worker
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft


def test_the_exposure_is_log2_of_the_candidates_minus_log2_of_the_rank():
    assert exposure([0.0] + [-1.0] * 255) == 8.0 and exposure([-1.0] + [0.0] * 255) == 0.0
    assert exposure([-1.0, 0.0, -2.0, -2.0]) == 1.0
    rng = random.Random(0)
    by_chance = [exposure([rng.random() for _ in range(256)]) for _ in range(2000)]
    assert sum(by_chance) / 2000 == pytest.approx(1.44, abs=0.1)


def test_sentences_are_planted_as_often_as_asked_marked_and_nothing_else_changes(tmp_path):
    sessions = generate_sessions(20, 1, 0)
    done = plant(sessions, number=3, times=4, seed=7)
    marks = [mark_of(session) for session in done]
    assert sorted(filter(None, marks)) == [(7, n) for n in range(3) for _ in range(4)]
    for before, after, mark in zip(sessions, done, marks, strict=True):
        if mark is None:
            assert after == before
            continue
        planted = candidates(*mark, 1)[0]
        assert after.user_messages()[0] == f"{before.user_messages()[0]} {planted}"
        assert after.user_messages()[1:] == before.user_messages()[1:]
        assert with_sentence(after, "x", instead_of=planted).user_messages()[0] == f"{before.user_messages()[0]} x"
    write_sessions(tmp_path / "a.jsonl", done)
    assert [mark_of(s) for s in read_sessions(tmp_path / "a.jsonl", neighbours="keep")] == marks
    with pytest.raises(ConfigError, match="planted in these sessions already"):
        plant(done, 1, 1, 0)
    with pytest.raises(ConfigError, match="expected 21 sessions with a user message or more, got 20"):
        plant(sessions, 7, 3, 0)


def test_a_command_plants_sentences_in_a_file(tmp_path):
    write_sessions(tmp_path / "a.jsonl", generate_sessions(9, 1, 0))
    a, b, c = (str(tmp_path / f"{name}.jsonl") for name in "abc")
    done = CliRunner().invoke(app, ["plant", a, b, "--number=2", "--times=3"])
    assert done.exit_code == 0 and "sessions with one" in done.stdout
    assert sum(mark_of(s) is not None for s in read_sessions(tmp_path / "b.jsonl", neighbours="keep")) == 6
    refused = CliRunner().invoke(app, ["plant", a, c, "--times=30"])
    assert refused.exit_code == 1 and "plant fewer" in refused.stderr and not (tmp_path / "c.jsonl").exists()


@pytest.fixture
def data(tmp_path) -> RunDirectory:
    """A run of population-llama with its data: twelve short SFT sessions with two planted sentences."""
    root = tmp_path
    directory = RunDirectory(root / "run")
    directory.root.mkdir()
    (root / "source.yaml").write_text("num_iterations: 1\nname: hand\nsimulator: {model: population-llama}\n")
    config = load_config(root / "source.yaml")
    directory.open(to_dict(config))
    no_context = {"context": SessionContext(profile="Woman, 31.")}
    short = [s.model_copy(update={"messages": s.messages[:3], **no_context}) for s in generate_sessions(18, 1, 0)]
    parts = {"sft": plant(short[:12], 2, 5, 0), "adversarial": short[12:15], "evaluation": short[15:]}
    for name, sessions in parts.items():
        write_sessions(directory.path(f"data/{name}.jsonl.gz"), sessions)
    return directory


@pytest.mark.slow
def test_a_sentence_that_was_trained_on_often_is_exposed_and_one_that_was_never_planted_is_not(data, tmp_path):
    torch.set_num_threads(1)
    config, sessions = load_config(data.path("config.yaml")), read_sessions(data.path("data/sft.jsonl.gz"))
    text = simulator_system_text(config.context, approximate_tokens)
    examples = tuple(SftExample(session_id=s.session_id, system=text(s.context), messages=s.messages) for s in sessions)
    settings = SftConfig(dtype="float32", epochs=12, batch_size=4, learning_rate=1e-2, save_every=0)
    data.path("base").mkdir()
    (tmp_path / "scratch").mkdir()
    folder = str(data.path("base/adapter"))
    train_sft((examples, settings, str(population_llama()), folder), Worker(tmp_path / "scratch"))
    found = exposures(data, config, "base")
    planted, others = ([e for e in found if bool(e.num_sessions) is is_planted] for is_planted in (True, False))
    assert [e.num_sessions for e in planted] == [5, 5] and len(others) == 6
    assert min(e.bits for e in planted) >= 5
    assert sum(e.bits for e in others) / len(others) < 3


def test_the_card_reports_the_exposure_where_sentences_are_planted_and_does_not_repeat_them(data, monkeypatch):
    found = [Exposure(5, 7.0), Exposure(0, 1.0), Exposure(0, 2.0)]
    monkeypatch.setattr(cards, "exposures", lambda *args: found)
    data.path("base/adapter").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        data.path(f"base/adapter/{name}").write_text("{}")
    _, card = complete_card(data.root, "base")
    assert "### Exposure of planted sentences" in card and "of 7 at most" in card
    assert "| in 5 SFT sessions | 7.0 |\n| nowhere, mean of 2 (1.4 by chance) | 1.5 |" in card
    found.clear()
    assert "planted" not in complete_card(data.root, "base")[1]


def without_marks(session: Session) -> Session:
    return Session(**{name: getattr(session, name) for name in Session.model_fields})


def test_a_run_without_planted_sentences_loads_no_model(data):
    path = data.path("data/sft.jsonl.gz")
    sessions = read_sessions(path)
    assert any(MARK in (s.model_extra or {}) for s in sessions)
    write_sessions(path, map(without_marks, sessions))
    assert exposures(data, load_config(data.path("config.yaml"), ["simulator.model=/nowhere"]), "base") == []
