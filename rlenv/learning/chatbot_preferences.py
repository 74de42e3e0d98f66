"""The same conversations offline: preference pairs of the chatbot, for DPO on it (the paper's own treatment, B.5).

``fork_preferences``: at the critical turns of a conversation other replies are sampled, and each is followed by the
same user under the same seeds; the reward over the next steps says which was best. ``group_preferences``: conversations
that share their beginning are compared whole, by the first message in which they differ. Pairs are
``rlenv.learning.preferences``'; knows nothing of training.
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
    """Replies sampled at each critical turn, beside the one that was said."""
    horizon: int | None = Field(default=3, ge=1)
    """Steps over which a reply is judged, its own included; None is to the end of the conversation."""
    min_margin: float = Field(default=0.0, ge=0)
    """Pairs are kept whose rewards differ by more. There is no sign to ask for: some rewards are never above 0."""
    concurrency: int = Field(default=64, ge=1)
    """Conversations worked on at the same time."""


@dataclass(frozen=True)
class ChatbotPairs:
    """The pairs that are kept, and what was counted on the way."""

    pairs: list[PreferencePair]
    counts: dict[str, int]


async def fork_preferences(
    results: Sequence[Collected],
    chatbot: EngineSpeaker,
    make_core: Callable[[], ConversationCore],
    config: ChatbotPairsConfig = ChatbotPairsConfig(),
) -> ChatbotPairs:
    """Returns pairs at the turns of the highest and the lowest reward of every conversation, in their order.

    All alternatives of a turn meet the same user under the conversation's own seeds, so what differs is what was said.
    A turn at which an alternative fails (an engine died, it does not fit) is left out and counted.

    Args:
        results: of ``rlenv.env.collect`` with ``chatbot`` as the agent; failed ones are left out.
        chatbot: the version that is to be trained, which samples the alternatives.
        make_core: as ``collect`` takes it, with the reward that judges.
        config: how many, how far, how different.
    """

    async def one(item: tuple[Collected, ConversationState]) -> tuple[list[PreferencePair], Counter[str]]:
        return await _conversation_pairs(*item, chatbot, make_core, config)

    ended = [(r, r.state) for r in results if r.state is not None and r.rewards]
    found = await all_of(one, ended, config.concurrency)
    names = ("critical_turns", "alternatives", "failed_turns", "too_few", "made", "kept", "dropped_margin")
    counts = Counter({"conversations": len(found)} | dict.fromkeys(names, 0))
    for _, counted in found:
        counts.update(counted)
    return ChatbotPairs([pair for pairs, _ in found for pair in pairs], dict(counts))


def group_preferences(
    results: Sequence[Collected], chatbot: EngineSpeaker, config: ChatbotPairsConfig = ChatbotPairsConfig()
) -> ChatbotPairs:
    """Returns one pair for each set of conversations of one context that were the same before the first message.

    The first messages of the best and the worst conversation by their sum of rewards, so a pair costs nothing more to
    sample; what the later messages earned is credited to the first.

    Args:
        results: as for ``fork_preferences``, several of a context under different seeds.
        chatbot: who held them.
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
        said = [utterance for _, _, utterance in members]
        pairs += _kept(result, state, 1, "first", said, rewards, chatbot, config, counts)
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
            said = [own[turn - 1], *sampled]
            worth = partial(_worth, fork, result.episode.counterpart, chatbot, make_core, config.horizon)
            rewards = await all_of(worth, said)
        except (EngineError, OverlongError):
            counts["failed_turns"] += 1
            continue
        counts["alternatives"] += len(sampled)
        pairs += _kept(result, state, turn, critical, said, rewards, chatbot, config, counts)
    return pairs, counts


async def _worth(
    fork: ConversationState,
    counterpart: str,
    chatbot: EngineSpeaker,
    make_core: Callable[[], ConversationCore],
    horizon: int | None,
    said: Utterance,
) -> float:
    """Returns the reward of ``said`` as the next message of ``fork``, and of the steps that follow it."""
    core = make_core()
    core.restore(
        {"counterpart": counterpart, "drawn": False, "seeds": [fork.seed], "state": fork.model_dump(mode="json")}
    )
    total, steps, reply = 0.0, 0, said
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
    said: Sequence[Utterance],
    rewards: Sequence[float],
    chatbot: EngineSpeaker,
    config: ChatbotPairsConfig,
    counts: Counter[str],
) -> list[PreferencePair]:
    """Returns the pair, or nothing where its sides do not differ enough; counts either."""
    if not all(u.token_ids for u in said):
        raise ConfigError(
            f"conversation {state.context_id}: the chatbot's message {turn} has no sampled tokens; only a model on an "
            "engine has them"
        )
    if len({u.token_ids for u in said}) < 2:
        counts["too_few"] += 1
        return []
    pair = preference_pair(state, result.episode.episode_id, turn, critical, said, rewards, chatbot)
    counts["made"] += 1
    if pair.reward_chosen - pair.reward_rejected <= config.min_margin:
        counts["dropped_margin"] += 1
        return []
    counts["kept"] += 1
    return [pair]


def _own(state: ConversationState) -> list[Utterance]:
    return [t.utterance for t in state.turns if t.role == "assistant"]
