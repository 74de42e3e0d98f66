"""Collects many episodes at once: one coroutine each, bounded concurrency, no barrier between turns.

    async for result in collect(agent, core.sibling, episodes):
        ...

Equal episodes give equal conversations, whatever the concurrency and the order in which they finish. A failed
conversation is recorded with the kind and reason of its failure, and the others continue; a failure never becomes a
reward of 0. ``actors.rollouts`` does the same in several processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Literal

from pydantic import AliasChoices, Field

from rlenv.core.aio import as_finished
from rlenv.core.errors import ConfigError, DataError, EngineError, OverlongError, PhaseError
from rlenv.core.progress import progressed
from rlenv.core.protocols import Speaker
from rlenv.core.types import ConversationState, Record
from rlenv.env.core import ConversationCore
from rlenv.env.provenance import Provenance, describe

FailureKind = Literal["engine", "overlong", "data"]
"""engine: an engine died or could not be reached; the only kind that is retried. overlong: the conversation does not
fit a model that must read all of it, such as a reward's. data: the episode names something that does not exist, or a
speaker or reward cannot work as configured."""


class Episode(Record):
    """One conversation to collect."""

    episode_id: str
    context_id: str
    counterpart: str = Field(validation_alias=AliasChoices("counterpart", "world"), serialization_alias="world")
    """Name of the counterpart."""
    seed: int


class Collected(Record):
    """An episode and its result: the conversation, or the kind and reason of its failure."""

    episode: Episode
    state: ConversationState | None = None
    rewards: tuple[float, ...] = ()
    reward_parts: tuple[dict[str, float], ...] = ()
    """The weighted parts of each reward."""
    provenance: Provenance | None = None
    failure: FailureKind | None = None
    reason: str | None = None
    attempts: int = 1
    """How often the episode was started: more than 1 after a retry. The conversation does not depend on it."""


def collect(
    agent: Speaker,
    make_core: Callable[[], ConversationCore],
    episodes: Iterable[Episode],
    *,
    concurrency: int = 256,
    attempts: int = 2,
) -> AsyncGenerator[Collected, None]:
    """Yields each episode's result as soon as it is finished.

    At most ``concurrency`` episodes are in memory, including finished ones that the consumer has not taken yet, so
    ``episodes`` may be an infinite generator. Any exception other than an ``RlenvError`` is a bug and stops the
    collection.

    Args:
        agent: the speaker in the agent's seat.
        make_core: returns a new core over the same scenarios and counterparts.
        episodes: read lazily, one whenever a running episode ends.
        concurrency: the number of conversations that run at the same time.
        attempts: how often an episode is tried when its engine fails.

    Raises:
        ConfigError: ``concurrency`` or ``attempts`` is below 1.
    """
    if attempts < 1:
        raise ConfigError(f"attempts: expected 1 or more, got {attempts}")

    async def work(episode: Episode) -> Collected:
        return await collect_one(agent, make_core, episode, attempts)

    return as_finished(work, episodes, concurrency)


async def few_failures(
    results: AsyncIterator[Collected], max_share: float, total: int, title: str
) -> AsyncGenerator[Collected, None]:
    """Yields the results; ends the collection as soon as too many conversations have failed.

    Args:
        results: of ``collect``.
        max_share: the largest share of failed conversations that is allowed.
        total: the number of episodes.
        title: the phase, named in the message.

    Raises:
        PhaseError: more than ``max_share`` of ``total`` have failed; has their kinds and the first one's reason.
    """
    failures: list[Collected] = []
    async for result in results:
        failures += [result] if result.failure else []
        if len(failures) > max_share * total:
            kinds = dict(Counter(failure.failure for failure in failures))
            raise PhaseError(
                f"{title}: {len(failures)} of {total} conversations failed ({kinds}), more than max_failed_share = "
                f"{max_share} allows; the first: {failures[0].reason}. Run the same command again to resume"
            )
        yield result


async def in_order(results: AsyncIterator[Collected], episodes: Sequence[Episode]) -> list[Collected]:
    """Returns all results, in the order of ``episodes``."""
    found = {result.episode: result async for result in results}
    return [found[episode] for episode in episodes]


async def collect_one(
    agent: Speaker, make_core: Callable[[], ConversationCore], episode: Episode, attempts: int = 2
) -> Collected:
    """Returns the result of one episode; see ``collect``."""
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
        while not core.over and (action := await core.ask(agent)) is not None:
            _, reward, _, _, info = await core.step(action)
            progressed()
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
