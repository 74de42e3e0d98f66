"""Fitting discriminators that read with the simulator: what is written, the leak control, and two workers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlenv.core.types import Branch, Message, Session
from rlenv.discriminator.labelled import LabelledSession
from rlenv.discriminator.likelihood import LikelihoodDiscriminator
from trainers.backend.worker import Worker
from trainers.discriminator.config import DiscriminatorConfig
from trainers.discriminator.fit import OUT_OF_FOLD, VALIDATION, read_validation
from trainers.discriminator.likelihood import train_likelihood
from trainers.discriminator.loop import Task
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft

CONFIG = DiscriminatorConfig(kind="likelihood", max_tokens=400)
REAL, SIMULATED = ("I", "feel", "low", "today"), ("and", "work", "is", "hard")


def items(count: int, name: str) -> list[tuple[LabelledSession, str | None]]:
    """Pairs of sessions of one context: real and simulated users have other words, the chatbot has not."""
    rng, made = random.Random(name), []
    for i in range(count):
        for real, words in ((True, REAL), (False, SIMULATED)):
            texts = [" ".join(rng.choices(words if turn % 2 == 0 else ("go", "on"), k=3)) for turn in range(5)]
            messages = tuple(
                Message(role="assistant" if turn % 2 else "user", content=text) for turn, text in enumerate(texts)
            )
            session = Session(session_id=f"{name}{i}{real}", messages=messages)
            made.append((LabelledSession(context_id=f"{name}{i}", real=real, session=session), "a person"))
    return made


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, make_session) -> Path:
    root = tmp_path_factory.mktemp("adapter")
    examples = [SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(6)]
    train_sft((examples, SftConfig(dtype="float32", save_every=0), str(tiny_llama), str(root / "a")), Worker(root))
    return root / "a"


@pytest.fixture(scope="module")
def fitted(tiny_llama: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a discriminator and of its leak control."""
    root = tmp_path_factory.mktemp("likelihood")
    train, validation = items(20, "t"), items(8, "v")
    tasks = [Task("main", train, validation, False), Task("leak", train, validation, True)]
    folders = [str(root / "main"), str(root / "leak")]
    summaries = train_likelihood((tasks, CONFIG, str(tiny_llama), str(adapter), folders), Worker(root))
    assert [s["num_train"] for s in summaries] == [40, 40] and [s["num_cut"] for s in summaries] == [0, 0]
    assert summaries[0]["loss_last"] < 0.5
    return root


def accuracy(folder: Path, name: str = VALIDATION) -> float:
    scored = read_validation(folder, name)
    return float(np.mean([(value > 0) == s.real for s in scored for value in s.log_odds[1:]]))


def test_the_discriminator_tells_the_users_and_its_leak_control_does_not(fitted: Path):
    assert accuracy(fitted / "main") > 0.9
    assert accuracy(fitted / "main", OUT_OF_FOLD) > 0.9
    assert 0.3 < accuracy(fitted / "leak") < 0.7


@pytest.mark.parametrize(("number", "name", "file"), [(8, "v", VALIDATION), (20, "t", OUT_OF_FOLD)])
def test_served_log_odds_are_those_of_the_validation_and_out_of_fold(fitted: Path, number: int, name: str, file: str):
    judge = LikelihoodDiscriminator.load(fitted / "main")
    sessions = [item.session for item, _ in items(number, name)]
    served = judge.score_trees([judge.tree(session, (), "a person") for session in sessions])
    for one, other in zip(served, read_validation(fitted / "main", file), strict=True):
        np.testing.assert_allclose(one.log_odds, other.log_odds, atol=1e-4)
    (scores,) = judge.score_trees([judge.tree(sessions[0], (Branch(turn=2, texts=("I feel", "work is")),), "a person")])
    assert scores.branches[0][0] > scores.branches[0][1]


def test_a_copied_discriminator_reads_with_the_adapter_beside_it(fitted: Path, adapter: Path, tmp_path: Path):
    import shutil

    shutil.copytree(adapter, tmp_path / "base/adapter")
    copy = tmp_path / "base/discriminator/main"
    shutil.copytree(fitted / "main", copy)
    card = json.loads((copy / "likelihood.json").read_text())
    (copy / "likelihood.json").write_text(json.dumps(card | {"adapter": "/nowhere"}))
    assert LikelihoodDiscriminator.load(copy).max_tokens == 400


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_give_the_same_discriminator(fitted: Path, tiny_llama: Path, adapter: Path, local_ray, tmp_path):
    from rlenv.discriminator.labelled import LabelledSession as Labelled
    from trainers.backend.config import TrainResources
    from trainers.discriminator.config import DiscriminatorJob
    from trainers.discriminator.fit import fit_discriminators

    def plain(pairs) -> list[Labelled]:
        return [item for item, _ in pairs]

    job = DiscriminatorJob("main", tmp_path / "main", plain(items(20, "t")), plain(items(8, "v")))
    fit_discriminators(
        [job],
        CONFIG,
        tiny_llama,
        context_text=lambda session: "a person",
        reader=adapter,
        resources=TrainResources(num_workers=2, num_cpus=0.5, threads=1),
        storage_path=tmp_path / "storage",
    )
    for one, other in zip(read_validation(tmp_path / "main"), read_validation(fitted / "main"), strict=True):
        np.testing.assert_allclose(one.log_odds, other.log_odds, atol=1e-4)


def test_a_discriminator_of_the_users_messages_alone_is_served_as_one(tiny_llama: Path, adapter: Path, tmp_path: Path):
    config = replace(CONFIG, view="user_only")
    task, folder = Task("main", items(10, "t"), items(4, "v"), False), str(tmp_path / "main")
    train_likelihood(([task], config, str(tiny_llama), str(adapter), [folder]), Worker(tmp_path))
    judge = LikelihoodDiscriminator.load(folder)
    for (item, _), scored in zip(items(4, "v"), read_validation(folder), strict=True):
        other = [m.model_copy(update={"content": "x"}) if m.role == "assistant" else m for m in item.session.messages]
        changed = item.session.model_copy(update={"messages": tuple(other)})
        (served,) = judge.score_trees([judge.tree(changed, (), "a person")])
        np.testing.assert_allclose(served.log_odds, scored.log_odds, atol=1e-4)
