"""Pretraining alone, and the pretrained Llama that ships with the package."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from launch.adversarial.pretraining import pretrain
from launch.run.config.data import PopulationConfig
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.models.named import population_llama
from rlenv.population.corpus import generate_sessions
from rlenv.population.reading.act_patterns import CUES
from rlenv.population.reading.hearing import cues_of
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import approximate_tokens, simulator_system_text


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.xdist_group("tiny run")
def test_a_bfloat16_checkpoint_is_written_to_the_given_folder(tiny_run, tmp_path):
    out = pretrain(load_config(tiny_run.config), tmp_path / "llama")
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16
    made, copied = (chat_format(AutoTokenizer.from_pretrained(f)) for f in (tiny_run.root / "models/small-llama", out))
    assert copied.stop_token_ids == made.stop_token_ids


def test_an_existing_folder_is_refused_before_anything_is_trained(write_config, tmp_path):
    (tmp_path / "llama").mkdir()
    with pytest.raises(PhaseError, match="exists already"):
        pretrain(load_config(write_config(out_dir=str(tmp_path / "run"))), tmp_path / "llama")
    assert not (tmp_path / "run").exists()


def test_an_unknown_habit_of_pretraining_is_reported_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"pretrain_habits: unknown habit 'repeats'.*'repeat'"):
        PopulationConfig(pretrain_habits={"repeats": 0.1})


def test_population_llama_reacts_to_what_the_chatbot_says():
    folder = population_llama()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = chat_format(AutoTokenizer.from_pretrained(folder))
    system = simulator_system_text(ContextConfig(budget_tokens=400, instruction=""), approximate_tokens)

    @torch.no_grad()
    def surprise(session, messages) -> float:
        """Nats a token of the first words of the last message."""
        ids, mask = chat.training_example(system(session.context), messages, "user")
        start = len(ids) - len(chat.encode(messages[-1].content))
        own = [i for i in range(start - 2, len(ids)) if mask[i]][:6]
        found = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
        return -sum(float(found[i - 1, ids[i]]) for i in own) / len(own)

    sessions = generate_sessions(60, 1, 77, ["scattered", "stoic"])
    fine = [m for s in sessions for m in s.messages if m.role == "assistant" and m.issues == ()]
    complaints = set(CUES) - {"leaving", "wants_no_advice"}
    rng, gaps = random.Random(0), []
    for session in sessions:
        for i, message in enumerate(session.messages[:-1]):
            if message.issues and cues_of(session.messages[i + 1].content) & complaints:
                before = session.messages[: i + 1]
                reply = session.messages[i + 1]
                other = (*before[:-1], rng.choice(fine), reply)
                gaps.append(surprise(session, other) - surprise(session, (*before, reply)))
    assert len(gaps) > 30 and sum(gaps) / len(gaps) > 0.3
