"""Pairs of the chatbot: forks with the same user, rewards against a continuation by hand, groups, margins."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.types import Adapter, Sampling
from rlenv.env.collect import Collected, Episode, collect, in_order
from rlenv.env.conversation import Limits, apply, before_message, converse, reply_seed
from rlenv.env.core import ConversationCore
from rlenv.learning.chatbot_preferences import ChatbotPairsConfig, fork_preferences, group_preferences
from rlenv.population.chatbots.scripted import make_chatbot
from rlenv.population.oracle import issues_of
from rlenv.population.scenarios import population_counterparts, population_scenarios
from rlenv.population.users.user import PopulationUser
from rlenv.prompting.chat_format import chat_format
from rlenv.rewards.registry import make_reward
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, Latency, ScriptedEngine
from trainers.pretrain.loop import train_tokenizer

LIMITS = Limits(max_turns=5)
ADAPTER = Adapter(name="rl", path="/a/rl", digest="3" * 64)


@pytest.fixture(scope="module")
def format():
    texts = ["That sounds hard. What happened? You're overreacting, cheer up. Okay. system user assistant"] * 3
    return chat_format(train_tokenizer(texts, 400, 2048))


@pytest.fixture
def chatbot(format) -> EngineSpeaker:
    plain = [i for i in range(len(format.tokenizer)) if i not in format.tokenizer.all_special_ids]
    engine = ScriptedEngine(plain, EngineScript(mean_tokens=4, end_rate=0.0, latency=Latency(median_s=0.0)))
    return EngineSpeaker(
        "bot", engine, format, "chatbot", lambda c: "You are a counselor.", Sampling(max_tokens=12), ADAPTER
    )


def core() -> ConversationCore:
    return ConversationCore(
        population_scenarios(12), population_counterparts("chatbot"), "chatbot", LIMITS, make_reward({"issue_free": 1})
    )


def hold(chatbot, contexts=(0, 1, 2, 3), seeds=(1,)) -> list[Collected]:
    scenarios = population_scenarios(12)
    episodes = [
        Episode(episode_id=f"{c}-{s}", context_id=scenarios[c].context_id, counterpart="population", seed=s)
        for c in contexts
        for s in seeds
    ]
    return asyncio.run(in_order(collect(chatbot, core().sibling, episodes), episodes))


@pytest.mark.parametrize("horizon", [1, 2, None])
def test_an_alternatives_reward_is_that_of_continuing_with_the_same_user(chatbot, horizon):
    results = hold(chatbot)
    config = ChatbotPairsConfig(num_alternatives=3, horizon=horizon)
    found = asyncio.run(fork_preferences(results, chatbot, core().sibling, config))
    assert found.pairs and found.counts["alternatives"] == 3 * found.counts["critical_turns"]
    states = {r.episode.episode_id: r.state for r in results}

    async def value(state, turn, reply):
        after = apply(before_message(state, "chatbot", turn), reply, LIMITS)
        final = await converse(after, PopulationUser(), chatbot, LIMITS)
        issues = issues_of(final)[turn - 1 :][:horizon]
        return -sum(len(of) for of in issues)

    for pair in found.pairs:
        state = states[pair.session_id]
        fork = before_message(state, "chatbot", pair.turn)
        own = [t.utterance for t in state.turns if t.role == "assistant"][pair.turn - 1]
        replies = [own, *(asyncio.run(chatbot.reply(fork, reply_seed(fork, "alternative", i))) for i in range(3))]
        by_hand = [asyncio.run(value(state, pair.turn, reply)) for reply in replies]
        assert list(pair.rewards) == by_hand
        assert pair.reward_chosen == max(by_hand) > min(by_hand) == pair.reward_rejected
        assert pair.chosen_ids == replies[by_hand.index(max(by_hand))].token_ids
        assert pair.prompt_ids == tuple(chatbot.prompt(fork))
        assert (pair.seat, pair.simulator) == ("chatbot", "rl")


def test_the_original_reply_has_the_reward_it_had(chatbot):
    results = hold(chatbot, contexts=range(6))
    found = asyncio.run(fork_preferences(results, chatbot, core().sibling, ChatbotPairsConfig(horizon=1)))
    rewards = {r.episode.episode_id: r.rewards for r in results}
    assert found.pairs
    for pair in found.pairs:
        own = rewards[pair.session_id]
        assert pair.rewards[0] == own[pair.turn - 1]
        assert pair.rewards[0] == (max(own) if pair.critical == "highest" else min(own))


def test_conversations_that_begin_alike_are_compared_by_their_first_message(chatbot):
    opened_by_chatbot = [i for i, s in enumerate(population_scenarios(12)) if s.opener == "assistant"][:2]
    results = hold(chatbot, contexts=opened_by_chatbot, seeds=range(6))
    found = group_preferences(results, chatbot)
    assert found.counts["groups"] == 2 == found.counts["made"]
    for pair in found.pairs:
        members = [r for r in results if r.episode.episode_id.split("-")[0] == pair.session_id.split("-")[0]]
        returns = {sum(r.rewards): r for r in members}
        best = next(r for r in members if sum(r.rewards) == max(returns))
        assert pair.reward_chosen == max(returns) > min(returns) == pair.reward_rejected
        assert pair.chosen_ids == best.state.turns[0].utterance.token_ids
        assert (pair.turn, pair.critical) == (1, "first")
    assert group_preferences(results, chatbot, ChatbotPairsConfig(min_margin=1e6)).counts["dropped_margin"] == 2
    assert group_preferences(results[:1], chatbot).counts["too_few"] == 1


def test_a_turn_that_fails_is_counted_and_the_others_go_on(chatbot):
    results = hold(chatbot)

    class Dies(PopulationUser):
        async def reply(self, state, seed):
            if state.context_id == results[0].state.context_id:
                raise EngineError("the engine died")
            return await super().reply(state, seed)

    def dying() -> ConversationCore:
        return ConversationCore(
            population_scenarios(12), {"population": Dies()}, "chatbot", LIMITS, make_reward({"issue_free": 1})
        )

    config = ChatbotPairsConfig(num_alternatives=2)
    found = asyncio.run(fork_preferences(results, chatbot, dying().sibling, config))
    whole = asyncio.run(fork_preferences(results, chatbot, core().sibling, config))
    assert found.counts["failed_turns"] >= 1
    assert [p for p in whole.pairs if p.session_id != results[0].episode.episode_id] == found.pairs


def test_failed_episodes_give_no_pairs_and_speakers_without_tokens_are_refused(chatbot):
    failed = Collected(episode=Episode(episode_id="e", context_id="c", counterpart="w", seed=1), failure="engine")
    assert group_preferences([failed], chatbot).counts["groups"] == 0
    assert asyncio.run(fork_preferences([failed], chatbot, core().sibling)).counts["conversations"] == 0
    with pytest.raises(ConfigError, match="has no sampled tokens"):
        asyncio.run(fork_preferences(hold(make_chatbot("hasty")), chatbot, core().sibling))
    with pytest.raises(ConfigError, match=r"horizon: expected 1 or more, got 0"):
        ChatbotPairsConfig(horizon=0)


def test_trls_own_dpo_trainer_learns_from_the_chatbots_pairs(chatbot, tiny_llama: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    own = chat_format(tokenizer)
    plain = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    engine = ScriptedEngine(plain, EngineScript(mean_tokens=4, end_rate=0.0, latency=Latency(median_s=0.0)))
    speaker = EngineSpeaker("bot", engine, own, "chatbot", lambda c: "counselor", Sampling(max_tokens=12), ADAPTER)
    pairs = asyncio.run(fork_preferences(hold(speaker), speaker, core().sibling, ChatbotPairsConfig(2, 1))).pairs
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in pairs))
    assert set(json.loads(file.read_text().splitlines()[0])) >= {"prompt", "chosen", "rejected"}
    trainer = DPOTrainer(
        model=get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(target_modules="all-linear")),
        args=DPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, max_length=None, report_to=[],
            use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
        ),
        train_dataset=load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")),
        processing_class=tokenizer,
    )  # fmt: skip
    read = [tokenizer.decode(ids) for ids in trainer.train_dataset["prompt_ids"]]
    assert read == [tokenizer.decode(p.prompt_ids) for p in pairs]  # as text: TRL tokenises anew
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    [loss] = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    assert loss == pytest.approx(math.log(2), abs=1e-5)
    assert any(not p.equal(before[n]) for n, p in trainer.model.named_parameters() if n in before)
