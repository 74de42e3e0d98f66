"""Makes preference pairs: critical turns, and alternatives sampled by forking the conversation there (Section 3.5).

scores = discriminator.log_odds(session)                     [T + 1]
turns  = critical_turns(turn_rewards(scores))                highest and lowest reward
alternatives = sample_alternatives(conversation, turn, ...)  8, from the current simulator
pair   = best and worst of them by their own Eq. 4 reward, kept if r_chosen > 0 > r_rejected

The building blocks work for either seat. Pairs of the chatbot, ranked by the env's reward, are made in
``rlenv.learning.chatbot_preferences``.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from rlenv.core.aio import all_of
from rlenv.core.errors import OverlongError
from rlenv.core.log_odds import branch_rewards, turn_rewards
from rlenv.core.protocols import Discriminator
from rlenv.core.seeds import derive_seed
from rlenv.core.settings import Settings, settings
from rlenv.core.types import (
    Alternatives,
    Branch,
    ConversationState,
    Critical,
    PreferencePair,
    Session,
    SessionScores,
    Utterance,
)
from rlenv.env.conversation import before_message, reply_seed
from rlenv.speakers.engine import EngineSpeaker

log = logging.getLogger(__name__)

Compared = Critical | Literal["first"]
"""Why alternatives are compared at a turn; see ``PreferencePair.critical``."""


@settings
class PreferencesConfig(Settings):
    """How preference pairs are made (Section 3.5)."""

    num_alternatives: int = Field(default=8, ge=2)
    """Alternatives sampled at each critical turn."""
    turns: Literal["critical", "drawn"] = "critical"
    """``critical``: the turns with the highest and the lowest reward, as in the paper. ``drawn``: turns at random; the
    log-odds are an estimate of a density ratio, which holds at every turn and not only at the extremes."""
    num_turns: int = Field(default=2, ge=1)
    """Turns drawn in each session, with ``drawn``."""
    concurrency: int = Field(default=256, ge=1)
    """Sessions processed at the same time."""


@dataclass(frozen=True)
class PreferenceSet:
    """The pairs kept, the scores they are based on, and counts of what was made and left out."""

    pairs: list[PreferencePair]
    alternatives: list[Alternatives]
    """All alternatives at every turn where there are two different ones."""
    scores: list[SessionScores]
    """One record per session that fits the discriminator. Its branches, one per critical turn in the order highest,
    lowest, have the log-odds after each alternative."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of ``sessions``, of those ``too_long``, of ``critical_turns``, ``alternatives``, alternatives
    ``without_text``, critical turns with ``too_few`` alternatives, and pairs ``made``, ``kept`` and ``dropped_*``."""


def critical_turns(rewards: Sequence[float]) -> dict[Critical, int]:
    """Returns the turns (from 1) with the highest and the lowest reward; one entry if they are the same turn.

    >>> critical_turns([0.1, -2.0, 1.3])
    {'highest': 3, 'lowest': 2}
    >>> critical_turns([0.4])
    {'highest': 1}
    """
    if not len(rewards):
        return {}
    highest, lowest = int(np.argmax(rewards)) + 1, int(np.argmin(rewards)) + 1
    return {"highest": highest} if highest == lowest else {"highest": highest, "lowest": lowest}


def drawn_turns(num_turns: int, count: int, seed: int) -> list[int]:
    """Returns up to ``count`` different turns of 1 to ``num_turns``, in order.

    >>> drawn_turns(2, 5, seed=0)
    [1, 2]
    """
    turns = range(1, num_turns + 1)
    return sorted(random.Random(seed).sample(turns, min(count, num_turns)))


def keep(pair: PreferencePair) -> bool:
    """Returns whether the pair is kept: r_chosen > 0 > r_rejected."""
    return pair.reward_chosen > 0 and pair.reward_rejected < 0


async def sample_alternatives(
    conversation: ConversationState, turn: int, speaker: EngineSpeaker, count: int
) -> list[Utterance]:
    """Returns ``count`` alternatives to the speaker's message ``turn``: replies in a fork there, with a seed each.

    They are one request to the speaker's engine.
    """
    fork = before_message(conversation, speaker.seat, turn)
    return await speaker.replies(fork, [reply_seed(fork, "alternative", i) for i in range(count)])


def preference_pair(
    conversation: ConversationState,
    session_id: str,
    turn: int,
    critical: Compared,
    alternatives: Sequence[Utterance],
    rewards: Sequence[float],
    speaker: EngineSpeaker,
) -> PreferencePair:
    """Returns the pair of the best and the worst alternative (the first on ties), with their common prompt.

    Args:
        conversation: the conversation with the speaker's original message ``turn``.
        session_id: the conversation's id in the records.
        turn: the number of the message among the speaker's own, from 1.
        critical: why alternatives are compared at this turn.
        alternatives: [n], each with sampled token ids.
        rewards: [n], the reward of each: Eq. 4 at ``turn``, or the env's.
        speaker: the speaker that sampled them.
    """
    best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
    prompt_ids = tuple(speaker.prompt(before_message(conversation, speaker.seat, turn)))
    begin = len(speaker.format.begin)  # not in the text: a tokenizer that needs it adds it on encoding
    decode = speaker.format.tokenizer.decode
    return PreferencePair(
        prompt=decode(prompt_ids[begin:]),
        chosen=decode(alternatives[best].token_ids),
        rejected=decode(alternatives[worst].token_ids),
        prompt_ids=prompt_ids,
        chosen_ids=alternatives[best].token_ids,
        rejected_ids=alternatives[worst].token_ids,
        reward_chosen=float(rewards[best]),
        reward_rejected=float(rewards[worst]),
        session_id=session_id,
        turn=turn,
        critical=critical,
        simulator=speaker.adapter.name if speaker.adapter else speaker.name,
        rewards=tuple(float(r) for r in rewards),
        seat=speaker.seat,
    )


async def build_preferences(
    conversations: Sequence[tuple[Session, ConversationState]],
    simulator: EngineSpeaker,
    discriminator: Discriminator,
    config: PreferencesConfig,
    progress: Callable[[], None] = lambda: None,
) -> PreferenceSet:
    """Returns the preference set of Algorithm 1, lines 6 to 8, in the order of ``conversations``.

    Left out and counted: sessions too long for the discriminator, alternatives that end the session without a message
    (there is nothing to score), and critical turns with fewer than two different alternatives to rank.

    Args:
        conversations: sessions, and the conversations that they were made from, to fork.
        simulator: samples the alternatives.
        discriminator: gives the log-odds for the rewards (Eq. 4).
        config: how many alternatives, and how many sessions at the same time.
        progress: called after each session.

    Raises:
        OverlongError: no session fits the discriminator.
        EngineError: a model failed and could not be restarted; pending work is cancelled.
    """
    too_long: list[OverlongError] = []

    async def one(item: tuple[Session, ConversationState]) -> _SessionPairs | None:
        try:
            return await _session_pairs(*item, simulator, discriminator, config)
        except OverlongError as error:
            too_long.append(error)
            return None
        finally:
            progress()

    results = await all_of(one, conversations, config.concurrency)
    if too_long:
        log.warning("left out %d of %d sessions as too long; the first: %s", len(too_long), len(results), too_long[0])
        if len(too_long) == len(results):
            raise too_long[0]
    counts: Counter[str] = Counter(sessions=len(results), too_long=len(too_long))
    for name in ("critical_turns", "alternatives", "without_text", "too_few", "made", "kept"):
        counts[name] = 0
    fitting = [result for result in results if result is not None]
    for result in fitting:
        counts.update(result.counts)
    return PreferenceSet(
        [pair for result in fitting for pair in result.pairs],
        [each for result in fitting for each in result.alternatives],
        [result.scores for result in fitting],
        dict(counts),
    )


@dataclass(frozen=True)
class _SessionPairs:
    pairs: list[PreferencePair]
    alternatives: list[Alternatives]
    scores: SessionScores
    counts: Counter[str]


async def _session_pairs(
    session: Session,
    state: ConversationState,
    simulator: EngineSpeaker,
    discriminator: Discriminator,
    config: PreferencesConfig,
) -> _SessionPairs:
    turns, trunk = await _turns(session, state, discriminator, config)
    sampled = await all_of(lambda item: sample_alternatives(state, item[1], simulator, config.num_alternatives), turns)
    counts: Counter[str] = Counter(critical_turns=len(turns))
    rankable = []
    for utterances in sampled:
        with_text = [u for u in utterances if u.text]
        counts["alternatives"] += len(utterances)
        counts["without_text"] += len(utterances) - len(with_text)
        rankable.append(with_text)
    branches = [
        Branch(turn=turn, texts=tuple(u.text for u in utterances))
        for (_, turn), utterances in zip(turns, rankable, strict=True)
    ]
    scores = await discriminator.log_odds(session, branches) if branches or trunk is None else trunk
    pairs, alternatives = [], []
    for (critical, turn), utterances, log_odds in zip(turns, rankable, scores.branches, strict=True):
        if len({u.text for u in utterances}) < 2:
            counts["too_few"] += 1
            continue
        rewards = branch_rewards(scores.log_odds, turn, log_odds)
        pair = preference_pair(state, session.session_id, turn, critical, utterances, rewards.tolist(), simulator)
        alternatives.append(
            Alternatives(
                session_id=session.session_id,
                turn=turn,
                critical=critical,
                simulator=pair.simulator,
                prompt_ids=pair.prompt_ids,
                replies_ids=tuple(u.token_ids for u in utterances),
                rewards=pair.rewards,
            )
        )
        counts["made"] += 1
        if keep(pair):
            counts["kept"] += 1
            pairs.append(pair)
        elif pair.reward_chosen <= 0:
            counts["dropped_chosen_not_positive"] += 1
        else:
            counts["dropped_rejected_not_negative"] += 1
    return _SessionPairs(pairs, alternatives, scores, counts)


async def _turns(
    session: Session, state: ConversationState, discriminator: Discriminator, config: PreferencesConfig
) -> tuple[list[tuple[Critical, int]], SessionScores | None]:
    """Returns the turns at which alternatives are compared, with reasons, and the scores where turns depend on them."""
    if config.turns == "critical":
        scores = await discriminator.log_odds(session)
        return list(critical_turns(turn_rewards(scores.log_odds).tolist()).items()), scores
    num_turns = sum(message.role == "user" for message in session.messages)
    seed = derive_seed(state.seed, "preferences", session.session_id)
    return [("drawn", turn) for turn in drawn_turns(num_turns, config.num_turns, seed)], None
