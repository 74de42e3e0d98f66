"""Many conversations at once: a coroutine each over the env's core, bounded, no barrier between turns.

    async for result in collect(agent, core.sibling, episodes):
        ...

Equal episodes give equal conversations, whatever the concurrency and the order they finish in. A conversation that
fails is recorded with its kind and reason, and the others go on; it never becomes a reward of 0.
``actors.rollouts`` does the same in several processes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Literal

from pydantic import AliasChoices, Field

from rlenv.core.aio import as_finished
from rlenv.core.errors import ConfigError, DataError, EngineError, OverlongError
from rlenv.core.protocols import Speaker
from rlenv.core.types import ConversationState, Record
from rlenv.env.core import ConversationCore
from rlenv.env.provenance import Provenance, describe

FailureKind = Literal["engine", "overlong", "data"]
"""engine: it died or could not be reached, the one kind that is tried again. overlong: the conversation does not fit
a model that has to read it whole, as a reward's. data: the episode asks for what is not there, or somebody in it
cannot work as configured."""


class Episode(Record):
    """One conversation to hold."""

    episode_id: str
    context_id: str
    counterpart: str = Field(validation_alias=AliasChoices("counterpart", "world"), serialization_alias="world")
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
    attempts: int = 1
    """How often it was begun; more than 1 where it was redone from its start. What was said does not depend on it."""


def collect(
    agent: Speaker,
    make_core: Callable[[], ConversationCore],
    episodes: Iterable[Episode],
    *,
    concurrency: int = 256,
    attempts: int = 2,
) -> AsyncGenerator[Collected, None]:
    """Yields every episode's result as it comes.

    At most ``concurrency`` episodes are in memory, finished ones that were not taken yet among them: ``episodes`` may
    be a generator without an end. What is no ``RlenvError`` is a mistake in a program, and stops the collection.

    Args:
        agent: who sits in the core's seat.
        make_core: a new core over the same scenarios and counterparts.
        episodes: drawn from when there is a place.
        concurrency: conversations under way at the same time.
        attempts: tries of an episode whose engine failed.

    Raises:
        ConfigError: ``concurrency`` or ``attempts`` is below 1.
    """
    if attempts < 1:
        raise ConfigError(f"attempts: expected 1 or more, got {attempts}")

    async def work(episode: Episode) -> Collected:
        return await hold(agent, make_core, episode, attempts)

    return as_finished(work, episodes, concurrency)


async def in_order(results: AsyncIterator[Collected], episodes: Sequence[Episode]) -> list[Collected]:
    """Returns all results, in the order of ``episodes``."""
    found = {result.episode: result async for result in results}
    return [found[episode] for episode in episodes]


async def hold(
    agent: Speaker, make_core: Callable[[], ConversationCore], episode: Episode, attempts: int = 2
) -> Collected:
    """Returns what became of one episode; see ``collect``."""
    attempt = 1
    result = await _try(agent, make_core(), episode)
    while result.failure == "engine" and attempt < attempts:
        attempt += 1
        result = await _try(agent, make_core(), episode)
    return result.model_copy(update={"attempts": attempt})


async def _try(agent: Speaker, core: ConversationCore, episode: Episode) -> Collected:
    core.agent = describe(agent)
    rewards: list[float] = []
    parts: list[dict[str, float]] = []
    try:
        await core.reset(seed=episode.seed, context_id=episode.context_id, counterpart=episode.counterpart)
        while not core.over and (said := await core.ask(agent)) is not None:
            _, reward, _, _, info = await core.step(said)
            rewards.append(reward)
            parts.append(info["rewards"])
    except EngineError as error:
        return Collected(episode=episode, failure="engine", reason=str(error))
    except OverlongError as error:
        return Collected(episode=episode, failure="overlong", reason=str(error))
    except (ConfigError, DataError) as error:
        return Collected(episode=episode, failure="data", reason=str(error))
    return Collected(
        episode=episode,
        state=core.state,
        rewards=tuple(rewards),
        reward_parts=tuple(parts),
        provenance=core.provenance(),
    )
