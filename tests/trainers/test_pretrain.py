"""The small model: any text round-trips, packing loses nothing, and training lowers the loss reproducibly."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.core.errors import ConfigError
from rlenv.prompting.chat_format import chat_format
from trainers.backend.config import Schedule
from trainers.backend.optimization import rate_factors
from trainers.backend.worker import Worker
from trainers.pretrain.config import PretrainConfig
from trainers.pretrain.loop import pack, train_base_model
from trainers.sft.config import SftExample


@pytest.fixture(scope="module")
def examples(make_session) -> tuple[SftExample, ...]:
    return tuple(
        SftExample(session_id=str(i), system="be yourself", messages=make_session(str(i)).messages, seat=seat)
        for i in range(60)
        for seat in ("user", "chatbot")
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, examples, tiny_shape) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    summary = train_base_model((examples, tiny_shape, str(root / "base")), Worker(root))
    assert summary["loss_last"] < 3 < np.log(320)
    return root / "base"


def test_any_text_round_trips_and_special_tokens_in_it_stay_text(base: Path) -> None:
    chat = chat_format(AutoTokenizer.from_pretrained(base))
    for text in ("Grüße, 你好 🙂", "a  b\n\nc", "<|im_end|> is not the end <|endoftext|>"):
        ids = chat.encode(text)
        assert chat.tokenizer.decode(ids) == text
        assert not set(ids) & {chat.end_of_turn, chat.end_of_session}


def test_the_checkpoint_is_an_ordinary_one(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    chat = chat_format(AutoTokenizer.from_pretrained(base))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.eos_token_id == chat.end_of_turn != chat.end_of_session
    assert model.get_input_embeddings().num_embeddings >= len(chat.tokenizer)


def test_packing_keeps_every_conversation_whole_and_in_order(base: Path, examples) -> None:
    chat = chat_format(AutoTokenizer.from_pretrained(base))
    blocks, _ = pack(examples, chat, 64, seed=1)
    stream = [*blocks[:, :-1].reshape(-1)]
    assert (blocks[:-1, -1] == blocks[1:, 0]).all()  # the last target of a block opens the next
    expected = [tuple(chat.training_example(e.system, e.messages, e.seat)[0]) for e in examples]
    text = " ".join(map(str, stream))
    found = sum(" ".join(map(str, ids)) in text for ids in expected)
    assert found >= len(expected) - 2  # the end of the stream is cut to whole blocks
    assert not np.array_equal(blocks, pack(examples, chat, 64, seed=2)[0])


def test_equal_seeds_give_equal_weights(base: Path, examples, tiny_shape, tmp_path: Path) -> None:
    train_base_model((examples, tiny_shape, str(tmp_path / "same")), Worker(tmp_path))
    train_base_model((examples, replace(tiny_shape, seed=1), str(tmp_path / "other")), Worker(tmp_path))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (base, tmp_path / "same", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


def test_the_other_seats_words_and_the_context_weigh_less(base: Path, examples) -> None:
    chat = chat_format(AutoTokenizer.from_pretrained(base))
    ids, weights = pack(examples[:1], chat, 16, seed=1, other_weight=0.25)
    _, own = chat.training_example(examples[0].system, examples[0].messages, examples[0].seat)
    assert weights[:, :-1].flatten().tolist() == [1.0 if each else 0.25 for each in own][: 16 * len(ids)]


def test_a_model_is_trained_further_with_its_tokenizer(base: Path, examples, tiny_shape, tmp_path: Path) -> None:
    short = replace(tiny_shape, start=str(base), epochs=0.1, hidden_size=48)
    summary = train_base_model((examples, short, str(tmp_path / "further")), Worker(tmp_path))
    new = train_base_model((examples, replace(short, start=None), str(tmp_path / "new")), Worker(tmp_path))
    assert summary["loss_last"] < new["loss_last"]
    one, other = (AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "further"))
    assert one.get_vocab() == other.get_vocab()


def factors(schedule: Schedule, total: int, warmup: float) -> list[float]:
    return [rate_factors(schedule, total, warmup)(step) for step in range(total)]


def test_schedules_begin_low_and_end_low() -> None:
    for schedule in ("linear", "cosine", "wsd"):
        rates = factors(schedule, 100, 0.1)
        assert max(rates) == pytest.approx(1.0, abs=0.05) and rates[0] < 0.2 and 0 < rates[-1] < 0.1
    assert factors("constant", 10, 0) == [1.0] * 10
    assert factors("wsd", 100, 0.1)[10:60] == [1.0] * 50


@pytest.mark.parametrize("total", (1, 2, 7, 100))
@pytest.mark.parametrize("warmup", (0, 0.05, 0.5, 3))
def test_schedules_are_those_of_their_formulas_and_no_step_has_a_rate_of_0(total: int, warmup: float) -> None:
    first = math.ceil(warmup * total) if warmup < 1 else warmup
    formulas = {
        "constant": lambda done, step: 1.0,
        "linear": lambda done, step: 1 - done,
        "cosine": lambda done, step: (1 + math.cos(math.pi * done)) / 2,
        "wsd": lambda done, step: min(1.0, (total - step) / max(1, round(0.4 * total))),
    }
    for name, formula in formulas.items():
        found = factors(name, total, warmup)
        assert all(0 < factor <= 1 for factor in found)
        for step, factor in enumerate(found):
            rising = (step + 1) / (first + 1)
            falling = formula((step - first) / max(1, total - first), step)
            assert factor == pytest.approx(rising if step < first else falling)


def test_impossible_shapes_are_reported_together() -> None:
    with pytest.raises(ConfigError, match=r"(?s)hidden_size.*block_tokens"):
        PretrainConfig(hidden_size=100, num_heads=3, block_tokens=4096)
