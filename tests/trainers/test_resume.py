"""A run that dies and resumes from its last checkpoint gives the same bytes as an uninterrupted one, for every loop.

In this process; ``test_ray_train`` does the same with killed workers.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from rlenv.core.adapters import folder_digest
from rlenv.core.types import Message
from rlenv.discriminator.labelled import LabelledSession
from trainers.backend.huggingface import drop_frozen_adapters
from trainers.backend.ray_train import _fingerprint
from trainers.backend.worker import Worker
from trainers.discriminator.config import DiscriminatorConfig
from trainers.discriminator.fit import read_validation
from trainers.discriminator.loop import Task, train_discriminators
from trainers.dpo.config import DpoConfig
from trainers.dpo.fit import train_dpo
from trainers.pretrain.loop import train_base_model
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft


@pytest.fixture
def twin(tmp_path: Path) -> Worker:
    """The worker of the undisturbed run."""
    (tmp_path / "twin_scratch").mkdir()
    return Worker(tmp_path / "twin_scratch")


def examples(make_session, num: int) -> tuple[SftExample, ...]:
    return tuple(SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(num))


def test_sft(tiny_llama, tmp_path, make_session, die_and_go_on, twin) -> None:
    config = SftConfig(dtype="float32", learning_rate=1e-2, save_every=4, batch_size=2)

    def payload(name):
        return examples(make_session, 24), config, str(tiny_llama), str(tmp_path / name)

    assert die_and_go_on(train_sft, payload("out"), 10) == pytest.approx(train_sft(payload("twin"), twin))
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "twin")


def test_dpo_resumes_with_its_policy_and_its_reference(tiny_llama, tmp_path, make_session, die_and_go_on, twin) -> None:
    sft = SftConfig(dtype="float32", learning_rate=1e-2, save_every=0)
    train_sft((examples(make_session, 6), sft, str(tiny_llama), str(tmp_path / "base")), twin)
    rows = {
        "prompt_ids": [[5, 6, 7, 8 + i] for i in range(12)],
        "chosen_ids": [[20, 21, 2]] * 12,
        "rejected_ids": [[30, 31 + i, 2] for i in range(12)],
    }
    config = DpoConfig(dtype="float32", learning_rate=1e-3, save_every=4)

    def payload(name):
        return rows, config, str(tiny_llama), str(tmp_path / "base"), str(tmp_path / name)

    assert die_and_go_on(train_dpo, payload("out"), 7) == pytest.approx(train_dpo(payload("twin"), twin))
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "twin")


def test_the_frozen_adapter_is_not_kept_in_a_checkpoint_and_a_sharded_model_is(tmp_path) -> None:
    for name in ("ref", "pytorch_model_fsdp_0"):
        (tmp_path / name).mkdir()
    (tmp_path / "ref" / "adapter_config.json").touch()
    drop_frozen_adapters(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pytorch_model_fsdp_0"]


def test_discriminators(tiny_llama, tmp_path, make_session, die_and_go_on, twin) -> None:
    items = [
        (
            LabelledSession(context_id=str(i), real=real, session=make_session(f"{i}{real}", 2, "" if real else "!")),
            None,
        )
        for i in range(24)
        for real in (True, False)
    ]
    config = DiscriminatorConfig(learning_rate=1e-2, dtype="float32", batch_size=4, save_every=2)
    tasks = [Task("main", items[:32], items[32:], False), Task("leak", items[:32], items[32:], True)]

    def payload(name):
        return tasks, config, str(tiny_llama), [str(tmp_path / f"{name}{i}") for i in range(2)]

    # 8 steps a task: dies in the second.
    assert die_and_go_on(train_discriminators, payload("out"), 13) == train_discriminators(payload("twin"), twin)
    for i in range(2):
        assert read_validation(tmp_path / f"out{i}") == read_validation(tmp_path / f"twin{i}")
        assert folder_digest(tmp_path / f"out{i}") == folder_digest(tmp_path / f"twin{i}")


def test_the_base_model(tiny_shape, tmp_path, make_session, die_and_go_on, twin) -> None:
    config = replace(tiny_shape, save_every=3)

    def payload(name):
        return examples(make_session, 40), config, str(tmp_path / name)

    one = die_and_go_on(train_base_model, payload("out"), 8)
    other = train_base_model(payload("twin"), twin)
    assert one["loss_last"] == other["loss_last"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "twin")]
    assert weights[0] == weights[1]


def test_sessions_with_half_an_emoji_have_a_fingerprint_of_their_own() -> None:
    def fingerprint(text: str) -> str:
        messages = (Message(role="user", content=text), Message(role="assistant", content="b"))
        return _fingerprint((SftExample(session_id="s", system="c", messages=messages),))

    assert fingerprint("half \ud83d") == fingerprint("half \ud83d")
    assert len({fingerprint(text) for text in ("half \ud83d", "half \ud83e", "half")}) == 3
