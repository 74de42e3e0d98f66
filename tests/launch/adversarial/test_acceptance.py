"""A version is taken if its fresh discriminator finds it harder to tell than its predecessor, beyond chance."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from launch.adversarial.acceptance import (
    Verdict,
    context_accuracy,
    judge_version,
    paired_difference,
    referees_at_chance,
)
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.contents import newest_taken, was_taken
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from rlenv.core.types import ConversationState, Message, Session
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from rlenv.env.conversation import begin

NUM_CONTEXTS = 40
SETTINGS = ["discriminator.kind=likelihood", "discriminator.num_train_sessions=80"]


def talk(name: str, text: str) -> Session:
    rng = random.Random(name)
    words = " ".join(rng.choices(("day", "work", "I", "you", "so", "tired"), k=12))
    return Session(session_id=name, messages=(Message(role="user", content=f"{words} {text}".strip()),))


REAL = {"adversarial": [talk(str(i), "") for i in range(NUM_CONTEXTS)], "evaluation": [talk("e", "")]}


def simulated(text: str) -> list[Simulated]:
    state: ConversationState = begin("c", REAL["adversarial"][0].context)
    sessions = [Simulated(talk(f"{i}#0", text), state, str(i), "adversarial", 0) for i in range(NUM_CONTEXTS)]
    return [*sessions, Simulated(talk("e#0", text), state, "e", "evaluation", 0)]


def run_with(root: Path, *settings: str, **right: float) -> AdversarialRun:
    """A run whose discriminators are right about the share ``right`` of each version's sessions."""
    for version, share in right.items():
        folder = root / f"{version}/discriminator/main"
        folder.mkdir(parents=True)
        scored = [
            {"session_id": f"{i}{real}", "context_id": str(i), "real": real, "num_turns": 1,
             "log_odds": [0.0, (1.0 if real else -1.0) * (1 if i < share * NUM_CONTEXTS else -1)]}
            for i in range(NUM_CONTEXTS)
            for real in (True, False)
        ]  # fmt: skip
        (folder / "out_of_fold.json").write_text(json.dumps(scored))
    return AdversarialRun(load_config(None, [f"out_dir={root}", *SETTINGS, *settings]))


def test_accuracy_is_by_context_over_all_turns():
    scored = [
        ScoredSession(session_id="a", context_id="1", real=True, log_odds=(0.0, 1.0, -1.0, 1.0), num_turns=3),
        ScoredSession(session_id="b", context_id="1", real=False, log_odds=(0.0, 1.0), num_turns=1),
        ScoredSession(session_id="c", context_id="2", real=False, log_odds=(0.0,), num_turns=1),
    ]
    assert context_accuracy(scored) == {"1": 0.5}


def test_the_difference_is_paired_by_context():
    assert paired_difference({"a": 0.5, "b": 0.7}, {"a": 0.8, "b": 0.8, "c": 1.0}) == (-0.2, 0.1)


def test_a_version_that_is_harder_to_tell_is_taken(tmp_path: Path):
    run = run_with(tmp_path, "accept=fresh_judge", base=0.9, it1=0.6)
    verdict = judge_version(run, "it1", "base", simulated("x"), REAL)
    assert verdict.taken and verdict.difference == pytest.approx(-0.3) and verdict.predecessor == "base"
    assert newest_taken(run.directory, ["base", "it1"]) == "it1"


@pytest.mark.parametrize("accuracy", [0.9, 1.0, 0.875])
def test_a_version_that_is_not_harder_beyond_chance_is_not_taken(tmp_path: Path, accuracy: float):
    run = run_with(tmp_path, "accept=fresh_judge", base=0.9, it1=accuracy)
    assert not judge_version(run, "it1", "base", simulated("x"), REAL).taken
    assert not was_taken(run.directory, "it1")
    assert newest_taken(run.directory, ["base", "it1"]) == "base"


def test_the_base_is_taken(tmp_path: Path):
    run = run_with(tmp_path, "accept=fresh_judge", base=0.9)
    assert judge_version(run, "base", None, simulated("x"), REAL).taken


def test_at_chance_needs_the_discriminator_and_both_referees(tmp_path: Path):
    run = run_with(tmp_path / "a", "stop=at_chance", base=0.5, it1=0.9)
    assert judge_version(run, "base", None, simulated(""), REAL).at_chance
    assert not judge_version(run, "it1", "base", simulated(""), REAL).at_chance
    run = run_with(tmp_path / "b", "stop=at_chance", base=0.5)
    assert not judge_version(run, "base", None, simulated("simulated!!!"), REAL).at_chance


def test_the_papers_run_judges_nothing_and_writes_nothing(tmp_path: Path):
    run = run_with(tmp_path)
    assert judge_version(run, "it1", "base", [], {}) == Verdict()
    assert not (tmp_path / "it1").exists()


def test_referees_see_other_words_and_are_at_chance_without_a_difference():
    def items(text: str) -> list[LabelledSession]:
        return [
            LabelledSession(context_id=str(i), real=real, session=talk(f"{i}{real}", "" if real else text))
            for i in range(NUM_CONTEXTS)
            for real in (True, False)
        ]

    assert referees_at_chance(items(""), 0)
    assert not referees_at_chance(items("quite different"), 0)


@pytest.mark.parametrize("setting", ["accept=fresh_judge", "stop=at_chance"])
def test_a_token_classifier_cannot_judge_out_of_fold(setting: str):
    with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .*discriminator.kind"):
        load_config(None, [setting])
