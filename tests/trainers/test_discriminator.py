"""Discriminator training: easy tasks are learnt, equal distributions are not told apart, and controls work."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlenv.core.errors import ConfigError, PhaseError
from rlenv.discriminator.labelled import LabelledSession
from rlenv.discriminator.model import LoadedDiscriminator, TurnScorer, new_classifier
from rlenv.discriminator.rows import DiscriminatorRow, discriminator_rows
from trainers.backend.worker import Worker
from trainers.discriminator.batches import class_weights, epoch_batches, turn_weights
from trainers.discriminator.config import DiscriminatorConfig, DiscriminatorJob
from trainers.discriminator.fit import fit_discriminators, read_validation
from trainers.discriminator.loop import DiscriminatorLoop, Task, train_discriminators

FAST = DiscriminatorConfig(learning_rate=3e-3, epochs=5, dtype="float32", save_every=0)


def labelled(make_session, num: int, mark: str) -> list[LabelledSession]:
    """``num`` pairs whose simulated side ends its messages in ``mark``."""
    items = []
    for i in range(num):
        turns = random.Random(i).randint(2, 5)
        for real in (True, False):
            session = make_session(f"{i}{'r' if real else 's'}", turns, "" if real else mark)
            items.append(LabelledSession(context_id=str(i), real=real, session=session))
    return items


def run(tiny_llama: Path, scratch: Path, make_session, config=FAST, mark=" indeed", num=120, **task):
    items = [(item, None) for item in labelled(make_session, num, mark)]
    out = scratch / f"out{random.random()}"
    job = Task("main", items[: num * 3 // 2], items[num * 3 // 2 :], task.get("blank_user", False))
    (scratch / "work").mkdir(exist_ok=True)
    summary = train_discriminators(([job], config, str(tiny_llama), [str(out)]), Worker(scratch / "work"))[0]
    scored = read_validation(out)
    right = np.mean([(v > 0) == s.real for s in scored for v in s.log_odds[1:]])
    return out, summary, scored, right


@pytest.mark.parametrize(
    ("lora_rank", "optimizer", "evidence"),
    [(8, "adamw", "last"), (None, "adamw", "last"), (None, "muon", "last"), (None, "muon", "sum")],
)
def test_an_easy_task_is_learnt_and_served_log_odds_are_the_trained_ones(
    tiny_llama, scratch, make_session, lora_rank, optimizer, evidence
) -> None:
    config = replace(FAST, lora_rank=lora_rank, optimizer=optimizer, evidence=evidence)
    out, summary, scored, right = run(tiny_llama, scratch, make_session, config)
    assert right > 0.9
    assert summary["num_cut"] == 0 and summary["loss_first"] == pytest.approx(np.log(2), abs=1e-5)
    served = LoadedDiscriminator.load(out, device="cpu")
    items = labelled(make_session, 120, " indeed")[180:]
    again = served.log_odds(discriminator_rows(served.chat, served.layout, [i.session for i in items]))
    for session, values in zip(scored, again, strict=True):
        assert len(values) == session.num_turns + 1
        assert np.abs(values - np.array(session.log_odds)).max() < 1e-5


def test_served_log_odds_are_the_trained_ones_in_bfloat16_too(tiny_llama, scratch, make_session) -> None:
    config = replace(FAST, dtype="bfloat16", epochs=1)
    out, _, scored, _ = run(tiny_llama, scratch, make_session, config, num=40)
    served = LoadedDiscriminator.load(out, device="cpu")
    items = labelled(make_session, 40, " indeed")[60:]
    again = served.log_odds(discriminator_rows(served.chat, served.layout, [i.session for i in items]))
    worst = max(np.abs(v - np.array(s.log_odds)).max() for s, v in zip(scored, again, strict=True))
    assert worst < 1e-3


def test_equal_distributions_are_not_told_apart(tiny_llama, scratch, make_session) -> None:
    assert run(tiny_llama, scratch, make_session, mark="")[-1] == pytest.approx(0.5, abs=0.12)


def test_the_leak_control_reads_no_user_message(tiny_llama, scratch, make_session) -> None:
    assert run(tiny_llama, scratch, make_session, blank_user=True)[-1] == pytest.approx(0.5, abs=0.12)


def test_equal_seeds_give_equal_weights(tiny_llama, scratch, make_session) -> None:
    files = [run(tiny_llama, scratch, make_session, num=20)[0] / "adapter_model.safetensors" for _ in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tiny_llama, scratch, make_session) -> None:
    sessions = [item.session for item in labelled(make_session, 4, "!")]
    gradients = []
    for batch_tokens in (10_000, 150):
        config = replace(FAST, lora_rank=None, batch_tokens=batch_tokens)
        loop = DiscriminatorLoop(Worker(scratch), config, str(tiny_llama), 1)
        scorer = TurnScorer(new_classifier(str(tiny_llama), "float32"))
        torch.nn.init.constant_(scorer.classifier.score.weight, 0.1)
        rows = discriminator_rows(loop.chat, config.layout(), sessions)
        loss = loop.backward(scorer, rows, [True, False] * 4, (1.0, 1.0))
        gradients.append([loss, *(p.grad for p in scorer.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True))


def test_cut_sessions_are_counted_and_keep_what_fits(tiny_llama, scratch, make_session) -> None:
    _, summary, scored, _ = run(tiny_llama, scratch, make_session, replace(FAST, max_tokens=90, epochs=1), num=20)
    short = [s for s in scored if len(s.log_odds) - 1 < s.num_turns]
    assert 0 < len(short) <= summary["num_cut"]


def test_a_class_of_which_no_session_fits_is_refused_before_training(tiny_llama, scratch, make_session) -> None:
    with pytest.raises(PhaseError, match=r"main: .* within 60 tokens, got 3 real and 0 simulated"):
        run(tiny_llama, scratch, make_session, replace(FAST, max_tokens=60), mark=" word" * 60, num=4)


def test_weights_by_hand() -> None:
    rows = [DiscriminatorRow("a", (1,) * 9, (2, 5), 2), DiscriminatorRow("b", (1,) * 9, (1, 2, 3, 4, 5, 6), 6)]
    assert turn_weights(rows, "turn") == [1 / 8] * 8
    assert turn_weights(rows, "session") == [1 / 4] * 2 + [1 / 12] * 6
    assert class_weights([True, False, False, False]) == (4 / 6, 2)
    assert class_weights([True, False]) == (1, 1)


def test_an_epoch_reads_every_session_once_and_alike_on_every_worker() -> None:
    lengths = [random.Random(i).randint(5, 90) for i in range(103)]
    batches = epoch_batches(lengths, 8, 1, seed=3)
    assert sorted(i for b in batches for i in b) == list(range(103))
    assert epoch_batches(lengths, 8, 1, seed=3) == batches != epoch_batches(lengths, 8, 1, seed=4)
    assert len(epoch_batches(lengths, 8, 4, seed=3)) % 4 == 0
    assert len(epoch_batches([1], 1, 4, seed=3)) == 4


def test_a_job_with_one_class_or_a_shared_context_is_refused(tiny_llama, tmp_path, make_session) -> None:
    items = labelled(make_session, 4, "!")
    jobs = [
        DiscriminatorJob("main", tmp_path / "a", [i for i in items if i.real], items),
        DiscriminatorJob("leak", tmp_path / "b", items, items),
    ]
    with pytest.raises(PhaseError) as error:
        fit_discriminators(jobs, FAST, tiny_llama)
    assert "main: training needs real and simulated sessions, got 4 real and 0" in str(error.value)
    assert "leak: 4 contexts are in both training and validation" in str(error.value)
    with pytest.raises(ConfigError, match="average"):
        DiscriminatorConfig(average="token")
    with pytest.raises(ConfigError, match="lora_rank to null"):
        DiscriminatorConfig(optimizer="muon")
