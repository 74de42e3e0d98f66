"""Makes preference pairs of the chatbot from its conversations, for offline training with DPO (Appendix B.5).

``fork_preferences`` samples other replies at the critical turns of a conversation. Each is continued with the same user
under the same seeds, and the reward over the next steps ranks the replies. ``group_preferences`` compares whole
conversations that begin alike, by the first message in which they differ. Independent of training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import Field

from rlenv.core.aio import all_of
from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.settings import Settings, settings
from rlenv.core.types import ConversationState, PreferencePair, Utterance
from rlenv.env.collect import Collected
from rlenv.env.conversation import before_message
from rlenv.env.core import ConversationCore
from rlenv.learning.preferences import Compared, critical_turns, preference_pair, sample_alternatives
from rlenv.speakers.engine import EngineSpeaker


@settings
class ChatbotPairsConfig(Settings):
    """How preference pairs of the chatbot are made."""

    num_alternatives: int = Field(default=8, ge=1)
    """Replies sampled at each critical turn, in addition to the original one."""
    horizon: int | None = Field(default=3, ge=1)
    """Steps over which a reply's reward is summed, including its own; None is to the end of the conversation."""
    min_margin: float = Field(default=0.0, ge=0)
    """A pair is kept if its rewards differ by more than this. Their signs do not matter: some rewards are never
    positive."""
    concurrency: int = Field(default=64, ge=1)
    """Conversations processed at the same time."""


@dataclass(frozen=True)
class ChatbotPairs:
    """The pairs kept, and counts of what was made and left out."""

    pairs: list[PreferencePair]
    counts: dict[str, int]


async def fork_preferences(
    results: Sequence[Collected],
    chatbot: EngineSpeaker,
    make_core: Callable[[], ConversationCore],
    config: ChatbotPairsConfig = ChatbotPairsConfig(),
) -> ChatbotPairs:
    """Returns pairs at the turns with the highest and the lowest reward of every conversation, in order.

    All alternatives of a turn are continued with the same user and the conversation's own seeds, so only the reply
    differs. A turn at which an alternative fails (the engine died, or it is too long) is left out and counted.

    Args:
        results: episodes from ``rlenv.env.collect`` with ``chatbot`` as the agent; failed ones are left out.
        chatbot: the version to be trained, which also samples the alternatives.
        make_core: as in ``collect``, with the reward that ranks the replies.
        config: number of alternatives, horizon, margin and concurrency.
    """

    async def one(item: tuple[Collected, ConversationState]) -> tuple[list[PreferencePair], Counter[str]]:
        return await _conversation_pairs(*item, chatbot, make_core, config)

    ended = [(r, r.state) for r in results if r.state is not None and r.rewards]
    per_conversation = await all_of(one, ended, config.concurrency)
    names = ("critical_turns", "alternatives", "failed_turns", "too_few", "made", "kept", "dropped_margin")
    counts = Counter({"conversations": len(per_conversation)} | dict.fromkeys(names, 0))
    for _, counted in per_conversation:
        counts.update(counted)
    return ChatbotPairs([pair for pairs, _ in per_conversation for pair in pairs], dict(counts))


def group_preferences(
    results: Sequence[Collected], chatbot: EngineSpeaker, config: ChatbotPairsConfig = ChatbotPairsConfig()
) -> ChatbotPairs:
    """Returns one pair for each group of conversations that are equal up to the chatbot's first message.

    The pair consists of the first messages of the conversations with the highest and the lowest sum of rewards. It
    needs no further sampling; the reward of later messages is credited to the first one.

    Args:
        results: as in ``fork_preferences``, with several episodes per context under different seeds.
        chatbot: the chatbot that had these conversations.
        config: the margin.
    """
    groups: dict[object, list[tuple[Collected, ConversationState, Utterance]]] = defaultdict(list)
    for result in results:
        state = result.state
        if state is not None and result.rewards and (first := _own(state)[:1]):
            beginning = tuple(chatbot.prompt(before_message(state, chatbot.seat, 1)))
            groups[state.context_id, result.episode.counterpart, beginning].append((result, state, first[0]))
    counts = Counter({"groups": len(groups)} | dict.fromkeys(("too_few", "made", "kept", "dropped_margin"), 0))
    pairs = []
    for members in groups.values():
        result, state, _ = members[0]
        rewards = [sum(r.rewards) for r, _, _ in members]
        replies = [utterance for _, _, utterance in members]
        pairs += _kept(result, state, 1, "first", replies, rewards, chatbot, config, counts)
    return ChatbotPairs(pairs, dict(counts))


async def _conversation_pairs(
    result: Collected,
    state: ConversationState,
    chatbot: EngineSpeaker,
    make_core: Callable[[], ConversationCore],
    config: ChatbotPairsConfig,
) -> tuple[list[PreferencePair], Counter[str]]:
    own, counts, pairs = _own(state), Counter[str](), []
    turns = critical_turns(result.rewards[: len(own)])
    counts["critical_turns"] = len(turns)
    for critical, turn in turns.items():
        fork = before_message(state, chatbot.seat, turn)
        try:
            sampled = await sample_alternatives(state, turn, chatbot, config.num_alternatives)
            replies = [own[turn - 1], *sampled]
            value = partial(_value, fork, result.episode.counterpart, chatbot, make_core, config.horizon)
            rewards = await all_of(value, replies)
        except (EngineError, OverlongError):
            counts["failed_turns"] += 1
            continue
        counts["alternatives"] += len(sampled)
        pairs += _kept(result, state, turn, critical, replies, rewards, chatbot, config, counts)
    return pairs, counts


async def _value(
    fork: ConversationState,
    counterpart: str,
    chatbot: EngineSpeaker,
    make_core: Callable[[], ConversationCore],
    horizon: int | None,
    first: Utterance,
) -> float:
    """Returns the reward of ``first`` as the next message of ``fork``, plus that of the steps that follow it."""
    core = make_core()
    core.restore(
        {"counterpart": counterpart, "drawn": False, "seeds": [fork.seed], "state": fork.model_dump(mode="json")}
    )
    total, steps, reply = 0.0, 0, first
    while True:
        _, reward, _, _, _ = await core.step(reply)
        total, steps = total + reward, steps + 1
        following = None if core.over or steps == horizon else await core.ask(chatbot)
        if following is None:
            return total
        reply = following


def _kept(
    result: Collected,
    state: ConversationState,
    turn: int,
    critical: Compared,
    replies: Sequence[Utterance],
    rewards: Sequence[float],
    chatbot: EngineSpeaker,
    config: ChatbotPairsConfig,
    counts: Counter[str],
) -> list[PreferencePair]:
    """Returns the pair, or an empty list if its sides do not differ enough; updates ``counts`` in both cases."""
    if not all(u.token_ids for u in replies):
        raise ConfigError(
            f"conversation {state.context_id}: the chatbot's message {turn} has no sampled tokens; use a chatbot whose "
            "model runs on an engine"
        )
    if len({u.token_ids for u in replies}) < 2:
        counts["too_few"] += 1
        return []
    pair = preference_pair(state, result.episode.episode_id, turn, critical, replies, rewards, chatbot)
    counts["made"] += 1
    if pair.reward_chosen - pair.reward_rejected <= config.min_margin:
        counts["dropped_margin"] += 1
        return []
    counts["kept"] += 1
    return [pair]


def _own(state: ConversationState) -> list[Utterance]:
    return [t.utterance for t in state.turns if t.role == "assistant"]
