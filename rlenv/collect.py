"""Many conversations at once: a coroutine each over the env's core, bounded, no barrier between turns.

A conversation that fails is recorded with its reason and counted, and the others go on; it never becomes a
reward of 0. Equal episodes give equal conversations, whatever the concurrency and the order they finish in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from rlenv.conversation import reply_seed
from rlenv.env import ConversationCore
from rlenv.errors import EngineError, OverlongError
from rlenv.protocols import Speaker
from rlenv.provenance import Provenance, describe
from rlenv.types import ConversationState, Record

FailureKind = Literal["engine", "overlong", "data"]


class Episode(Record):
    """One conversation to hold."""

    episode_id: str
    context_id: str
    world: str
    """Who sits in the other seat."""
    seed: int


class Collected(Record):
    """An episode and what became of it: the conversation, or the kind and reason of its failure."""

    episode: Episode
    state: ConversationState | None = None
    rewards: tuple[float, ...] = ()
    reward_parts: tuple[dict[str, float], ...] = ()
    """The weighted parts of each reward."""
    provenance: Provenance | None = None
    failure: FailureKind | None = None
    reason: str | None = None


async def collect(
    agent: Speaker,
    make_core: Callable[[], ConversationCore],
    episodes: Sequence[Episode],
    *,
    concurrency: int = 256,
    attempts: int = 2,
    on_done: Callable[[Collected], None] = lambda _: None,
) -> list[Collected]:
    """Returns every episode's result, in the order of ``episodes``.

    Args:
        agent: who sits in the core's seat.
        make_core: a new core over the same scenarios and world.
        concurrency: conversations under way at the same time.
        attempts: tries of an episode whose engine failed.
        on_done: called with each result as it comes.
    """
    limit = asyncio.Semaphore(concurrency)

    async def one(episode: Episode) -> Collected:
        async with limit:
            for attempt in range(1, attempts + 1):
                result = await _run(agent, make_core(), episode)
                if result.failure != "engine" or attempt == attempts:
                    break
        on_done(result)
        return result

    return list(await asyncio.gather(*(one(e) for e in episodes)))


async def _run(agent: Speaker, core: ConversationCore, episode: Episode) -> Collected:
    core.agent = describe(agent)
    rewards: list[float] = []
    parts: list[dict[str, float]] = []
    try:
        await core.reset(seed=episode.seed, context_id=episode.context_id, world=episode.world)
        while core.state.end is None:
            try:
                said = await agent.reply(core.state, reply_seed(core.state))
            except OverlongError:
                core.truncate("max_tokens")
                break
            _, reward, _, _, info = await core.step(said)
            rewards.append(reward)
            parts.append(info["rewards"])
    except EngineError as error:
        return Collected(episode=episode, failure="engine", reason=str(error))
    except OverlongError as error:
        return Collected(episode=episode, failure="overlong", reason=str(error))
    return Collected(
        episode=episode,
        state=core.state,
        rewards=tuple(rewards),
        reward_parts=tuple(parts),
        provenance=core.provenance(),
    )
