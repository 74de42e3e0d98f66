"""SFT: what has a loss, that one pass trains every turn, and that equal seeds give equal weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.core.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_at
from rlenv.core.canary import CANARY
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.types import Message
from rlenv.prompting.chat_format import chat_format
from trainers.backend.worker import Worker
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import fit_sft, own_positions, pad_right, sft_rows, train_sft

MESSAGES = (
    Message(role="user", content="I am low"),
    Message(role="assistant", content="Since when?"),
    Message(role="user", content="Since May"),
)
FAST = SftConfig(dtype="float32", learning_rate=1e-2, save_every=0)


@pytest.fixture(scope="module")
def chat(tiny_llama: Path):
    return chat_format(AutoTokenizer.from_pretrained(tiny_llama))


@pytest.mark.parametrize(
    ("seat", "learnt"),
    [("user", "I am low<|im_end|>Since May<|endoftext|>"), ("chatbot", "Since when?<|im_end|>")],
)
def test_a_seat_learns_its_own_words_and_how_it_ends_them(chat, seat, learnt) -> None:
    rows, left_out = sft_rows([SftExample(session_id="s", system="be her", messages=MESSAGES, seat=seat)], chat, None)
    labels = [label for label in rows[0]["labels"] if label != -100]
    assert chat.tokenizer.decode(labels) == learnt
    assert left_out == 0


def test_only_own_tokens_get_gradient(tiny_llama: Path, chat) -> None:
    rows, _ = sft_rows([SftExample(session_id="s", system="c", messages=MESSAGES)], chat, None)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    batch = pad_right(rows)
    logits = model(input_ids=batch["input_ids"]).logits
    logits.retain_grad()
    model.loss_function(logits, batch["labels"], vocab_size=model.config.vocab_size).backward()
    touched = logits.grad[0].abs().sum(-1) > 0
    # The logits at position i predict token i + 1.
    assert touched[:-1].tolist() == [label != -100 for label in rows[0]["labels"][1:]]


def test_one_pass_over_a_session_is_the_sum_of_its_turns(tiny_llama: Path, chat) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)

    def log_prob(messages) -> float:
        rows, _ = sft_rows([SftExample(session_id="s", system="c", messages=messages)], chat, None)
        batch = pad_right(rows)
        with torch.no_grad():
            log_probs = model(input_ids=batch["input_ids"]).logits.log_softmax(-1)[0, :-1]
        targets = batch["labels"][0, 1:]
        return float(log_probs.gather(1, targets.clamp(min=0)[:, None])[:, 0][targets != -100].sum())

    def turn_log_prob(past, reply) -> float:
        prompt = [*chat.system_ids("c")]
        for m in past:
            piece = chat.own if m.role == "user" else chat.other
            prompt += [*piece.before, *chat.encode(m.content), *piece.after]
        prompt += chat.own.before
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([prompt + list(reply)])).logits.log_softmax(-1)[0]
        return sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(reply))

    turns = turn_log_prob([], chat.reply_ids("I am low"))
    turns += turn_log_prob(MESSAGES[:2], chat.reply_ids("Since May", ends_session=True))
    assert log_prob(MESSAGES) == pytest.approx(turns, abs=1e-3)


def test_padding_has_no_loss(chat) -> None:
    rows, _ = sft_rows([SftExample(session_id=str(n), system="c", messages=MESSAGES[:n]) for n in (1, 3)], chat, None)
    batch = pad_right(rows)
    short = len(rows[0]["input_ids"])
    assert (batch["labels"][0, short:] == -100).all() and (batch["attention_mask"][0, short:] == 0).all()


def test_logits_at_own_tokens_alone_give_the_loss_of_all_logits(tiny_llama: Path, chat) -> None:
    rows, _ = sft_rows([SftExample(session_id=str(n), system="c", messages=MESSAGES[:n]) for n in (1, 3)], chat, None)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    everywhere = model(**pad_right(rows))
    own = model(**own_positions(rows))
    assert own.logits.shape[1] < everywhere.logits.shape[1]
    assert float(own.loss) == pytest.approx(float(everywhere.loss), rel=1e-5)


def test_equal_seeds_give_equal_adapters_and_the_loss_falls(tiny_llama: Path, scratch: Path, make_session) -> None:
    examples = tuple(
        SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(60)
    )
    digests = []
    for run, seed in enumerate((0, 0, 1)):
        config = SftConfig(dtype="float32", learning_rate=2e-2, save_every=0, seed=seed)
        out = scratch / f"out{run}"
        summary = train_sft((examples, config, str(tiny_llama), str(out)), Worker(scratch))
        digests.append(adapter_at(out, "base").digest)
        assert summary["loss_last"] < summary["loss_first"] - 0.1
        assert summary["num_sessions"] == 60 and summary["num_trained_tokens"] > 500
    assert digests[0] == digests[1] != digests[2]


def test_the_saved_adapter_is_an_ordinary_peft_folder(tiny_llama: Path, scratch: Path) -> None:
    from peft import PeftModel

    examples = (SftExample(session_id="s", system="c", messages=MESSAGES),) * 4
    train_sft((examples, FAST, str(tiny_llama), str(scratch / "out")), Worker(scratch))
    assert {p.name for p in (scratch / "out").iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, CANARY}
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(scratch / "out"))
    targets = model.peft_config["default"].target_modules
    assert targets == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert any(p.abs().max() > 0 for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_on_the_host_change_no_weight(tiny_llama: Path, scratch: Path, checkpointing, monkeypatch) -> None:
    examples = (SftExample(session_id="s", system="c", messages=MESSAGES),) * 4
    num_moved, empty_like = [], torch.empty_like

    def counted(*args, **kwargs):
        num_moved.extend([1] * (kwargs.get("device") == "cpu"))
        return empty_like(*args, **kwargs)

    digests = []
    for offload in (False, True):
        out = scratch / f"offload{offload}"
        config = replace(FAST, gradient_checkpointing=checkpointing, offload_activations=offload)
        if offload:
            monkeypatch.setattr(torch, "empty_like", counted)
        train_sft((examples, config, str(tiny_llama), str(out)), Worker(scratch))
        digests.append(adapter_at(out, "base").digest)
    assert digests[0] == digests[1] and len(num_moved) >= 4


def test_defaults_are_table_6s() -> None:
    config = SftConfig()
    assert (config.epochs, config.batch_size, config.lora_rank, config.lora_alpha) == (1, 1, 8, 16)
    assert (config.learning_rate, config.schedule, config.warmup) == (5e-5, "constant", 0)
    assert (config.max_grad_norm, config.weight_decay) == (1, 0)


def test_nothing_to_learn_is_an_error(tiny_llama: Path, scratch: Path, tmp_path: Path) -> None:
    with pytest.raises(PhaseError, match="no sessions"):
        fit_sft([], FAST, tiny_llama, tmp_path / "out")
    silent = (SftExample(session_id="s", system="c", messages=MESSAGES[1:2], seat="user"),)
    rows, left_out = sft_rows(silent, chat_format(AutoTokenizer.from_pretrained(tiny_llama)), 5)
    assert rows == [] and left_out == 1
    with pytest.raises(ConfigError, match=r"SftConfig\.learning_rate.*\n.*SftConfig\.dtype"):
        SftConfig(learning_rate=0, dtype="float8")
