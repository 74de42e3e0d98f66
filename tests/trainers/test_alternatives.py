"""Training on all alternatives of a session: rows, the reference, what is learnt, and that a death changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.core.types import Alternatives
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.backend.worker import Worker
from trainers.dpo.alternatives import (
    REFERENCE,
    batch_loss,
    branch_log_probs,
    held_out_figures,
    real_nll,
    reference_of,
    session_rows,
    split_rows,
    train_on_alternatives,
    with_real,
    with_reference,
)
from trainers.dpo.config import DpoConfig
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft

CONFIG = DpoConfig(
    targets="distill", dtype="float32", learning_rate=2e-2, warmup=0, save_every=0, batch_size=2, epochs=12
)


@pytest.fixture(scope="module")
def chat(tiny_llama: Path) -> ChatFormat:
    return chat_format(AutoTokenizer.from_pretrained(tiny_llama))


@pytest.fixture(scope="module")
def reference(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory, make_session) -> Path:
    root = tmp_path_factory.mktemp("reference")
    examples = [SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(12)]
    config = SftConfig(dtype="float32", learning_rate=2e-2, save_every=0)
    train_sft((examples, config, str(tiny_llama), str(root / "base")), Worker(root))
    return root / "base"


def alternatives(chat: ChatFormat, number: int) -> list[Alternatives]:
    """Two turns of one session; the second prompt begins with the first."""
    first = (*chat.system_ids(f"context {number}"), *chat.own.before)
    second = (*first, *chat.reply_ids("I feel low"), *chat.other.before, *chat.encode("why"), *chat.other.after)
    texts = ("I feel low today", "so what now", f"work {number} is hard")
    return [
        Alternatives(
            session_id=f"s{number}",
            turn=turn,
            critical="drawn",
            simulator="base",
            prompt_ids=prompt,
            replies_ids=tuple(chat.reply_ids(text) for text in texts),
            rewards=rewards,
        )
        for turn, prompt, rewards in ((1, first, (0.5, -0.5, 0.0)), (2, (*second, *chat.own.before), (1.0, -1.0, 0.2)))
    ]


def policy(tiny_llama: Path, adapter: Path | str):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32), adapter)


def test_the_turns_of_a_session_share_its_longest_prompt(chat: ChatFormat):
    one, other = alternatives(chat, 1)
    (row,) = session_rows([one, other])
    assert row.tree.trunk == other.prompt_ids
    assert [branch.start for branch in row.tree.branches] == [len(one.prompt_ids)] * 3 + [len(other.prompt_ids)] * 3
    assert [turn.rewards for turn in row.turns] == [one.rewards, other.rewards]


def test_a_prompt_that_does_not_begin_the_longest_one_has_its_own_row(chat: ChatFormat):
    one, other = alternatives(chat, 1)
    cut = one.model_copy(update={"prompt_ids": one.prompt_ids[1:]})
    assert [len(row.turns) for row in session_rows([cut, other])] == [1, 1]


def test_sessions_are_held_out_whole(chat: ChatFormat):
    rows = session_rows([each for number in range(10) for each in alternatives(chat, number)])
    train, held_out = split_rows(rows, 0.2)
    assert len(train) == 8 and not {r.session_id for r in train} & {r.session_id for r in held_out}
    assert split_rows(rows[:1], 0.9)[0]


def test_the_reference_is_the_adapter_before_training(tiny_llama: Path, reference: Path, chat: ChatFormat):
    rows = with_reference(policy(tiny_llama, reference), session_rows(alternatives(chat, 1)))
    with torch.no_grad():
        loss, (margin, target, _) = batch_loss(policy(tiny_llama, reference), rows, CONFIG)
    assert margin == pytest.approx(0, abs=1e-4)
    assert target == pytest.approx(1.5)
    assert float(loss) == pytest.approx(((1 + 0.25 + 0.25) / 3 + (4 + 0.64 + 1.44) / 3) / 2, abs=1e-3)


def test_the_held_out_gain_is_0_without_an_update_and_negative_after_a_random_one(
    tiny_llama: Path, reference: Path, chat: ChatFormat
):
    rows = with_reference(policy(tiny_llama, reference), session_rows(alternatives(chat, 0)))
    moved = policy(tiny_llama, reference)
    with torch.no_grad():
        still = held_out_figures(moved, rows, CONFIG)
        torch.manual_seed(0)
        for name, weight in moved.named_parameters():
            if "lora_" in name:
                weight.add_(10 * torch.randn_like(weight))
    after = held_out_figures(moved, rows, CONFIG)
    assert still["held_out_gain"] == pytest.approx(0, abs=1e-3) and still["held_out_margin"] == pytest.approx(
        0, abs=1e-3
    )
    assert after["held_out_gain"] < -1
    assert still["held_out_most"] == after["held_out_most"] == pytest.approx(((1.5 / 3) + (6.08 / 3)) / 2, abs=1e-3)


def test_an_update_in_bfloat16_is_measured_in_float32(tiny_llama: Path, reference: Path, chat: ChatFormat, tmp_path):
    data = [each for number in range(4) for each in alternatives(chat, number)]
    config = replace(CONFIG, held_out=0.5, dtype="bfloat16")
    (tmp_path / "scratch").mkdir()
    out = str(tmp_path / "out")
    payload = ((data, None), config, str(tiny_llama), str(reference), out)
    summary = train_on_alternatives(payload, Worker(tmp_path / "scratch"))
    _, rows = split_rows(session_rows(data), config.held_out)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    moved = PeftModel.from_pretrained(base, out).float().eval()
    moved.load_adapter(reference, REFERENCE)
    with reference_of(moved):
        rows = with_reference(moved, rows)
    expected = held_out_figures(moved, rows, config)
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert abs(expected["held_out_margin"]) > 0.01


@pytest.mark.parametrize("targets", ["soft", "distill", "listwise", "imitate", "hard"])
def test_the_policy_moves_as_the_rewards_ask(targets, tiny_llama: Path, reference: Path, chat: ChatFormat, tmp_path):
    data = [each for number in range(8) for each in alternatives(chat, number)]
    config = replace(CONFIG, targets=targets, held_out=0.25 if targets != "hard" else 0.0)
    (tmp_path / "scratch").mkdir()
    out = str(tmp_path / "out")
    summary = train_on_alternatives(
        ((data, None), config, str(tiny_llama), str(reference), out), Worker(tmp_path / "scratch")
    )
    assert summary["accuracy"] > 0.9
    assert summary["target"] == pytest.approx(1.5)
    if targets == "distill":
        assert summary["margin"] == pytest.approx(1.5, abs=0.3)
        assert summary["held_out_target"] == pytest.approx(1.5)
        assert summary["held_out_margin"] > 0.5 and summary["held_out_gain"] > 0
    rows = session_rows(data)
    with torch.no_grad():
        after, before = (branch_log_probs(policy(tiny_llama, a).eval(), rows) for a in (out, reference))
    moved = (after - before).reshape(-1, 3).mean(dim=0)
    assert moved[0] > moved[1]


def real_sessions(make_session) -> dict[str, SftExample]:
    return {
        f"s{n}": SftExample(session_id=f"real {n}", system=f"context {n}", messages=make_session(str(n)).messages)
        for n in range(8)
    }


def test_a_real_session_stands_beside_the_first_row_of_its_simulated_one(tiny_llama, chat: ChatFormat, make_session):
    one, other = alternatives(chat, 1)
    cut = one.model_copy(update={"prompt_ids": one.prompt_ids[1:]})
    rows = with_real(session_rows([cut, other, *alternatives(chat, 9)]), real_sessions(make_session), str(tiny_llama))
    assert [row.session_id for row in rows] == ["s1", "s1", "s9"]
    assert [row.real is not None for row in rows] == [True, False, False]


def test_a_real_session_beside_is_cut_after_a_whole_message(tiny_llama, chat: ChatFormat, make_session):
    data, real = session_rows(alternatives(chat, 1)), real_sessions(make_session)
    whole = with_real(data, real, str(tiny_llama))[0].real
    assert whole is not None
    ids = whole["input_ids"]
    cut = with_real(data, real, str(tiny_llama), len(ids) - 1)[0].real
    assert cut is not None and len(cut["input_ids"]) < len(ids) and ids[: len(cut["input_ids"])] == cut["input_ids"]
    assert with_real(data, real, str(tiny_llama), 4)[0].real is None


def test_replay_teaches_real_messages_beside_the_alternatives(
    tiny_llama: Path, reference: Path, chat: ChatFormat, make_session, tmp_path
):
    data, real = [each for number in range(8) for each in alternatives(chat, number)], real_sessions(make_session)
    rows = with_real(session_rows(data), real, str(tiny_llama))
    summaries, nlls = {}, {}
    for name, weight in (("without", 0.0), ("with", 2.0)):
        (tmp_path / name).mkdir()
        out, config = str(tmp_path / f"{name}_out"), replace(CONFIG, targets="listwise", replay=weight)
        payload = ((data, real if weight else None), config, str(tiny_llama), str(reference), out)
        summaries[name] = train_on_alternatives(payload, Worker(tmp_path / name))
        with torch.no_grad():
            nlls[name] = float(real_nll(policy(tiny_llama, out).eval(), [row.real for row in rows if row.real]))
    assert nlls["with"] < nlls["without"] - 0.02
    assert "replay_nll" not in summaries["without"]
    assert summaries["with"]["replay_nll"] == pytest.approx(nlls["with"], abs=0.2)
    assert summaries["with"]["accuracy"] > 0.9
