"""Line 4 of Algorithm 1: plans the conversations, simulates them and writes them to disk.

simulated/sessions.jsonl            for people: the text of the conversations
simulated/conversations.jsonl.gz    for the next phases: sampled tokens, log-probs, adapter versions
simulated/counts.json               number of conversations, who ended them and why, and failures by kind
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from actors.metrics import Conversations
from launch.run.config.run import CollectConfig
from launch.run.progress import counting
from rlenv.core.aio import run
from rlenv.core.errors import ConfigError, DataError
from rlenv.core.files import damaged, read_records, to_line, write_atomic, write_json
from rlenv.core.protocols import Speaker
from rlenv.core.seeds import derive_seed
from rlenv.core.types import ConversationState, Role, Session, simulation_id
from rlenv.data.sessions import read_sessions, session_dict
from rlenv.env.collect import Collected, Episode, collect, few_failures
from rlenv.env.conversation import Limits, to_session
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from trainers.discriminator.config import DiscriminatorConfig

OPENERS: dict[str, Role | None] = {"as_real": None, "user": "user", "chatbot": "assistant"}
PARTS = ("adversarial", "evaluation")


@dataclass(frozen=True)
class Simulated:
    """One simulated session: its text, its state with tokens, and the id of the real session that gave its context."""

    session: Session
    state: ConversationState
    context_id: str
    part: str
    """"adversarial" (used in training) or "evaluation" (never)."""
    simulation: int
    """The index of this simulation among those of its context: 0, 1, ..."""


def choose_contexts(
    sessions: Mapping[str, Sequence[Session]], collect: CollectConfig, discriminator: DiscriminatorConfig, seed: int
) -> dict[str, list[Session]]:
    """Returns the real sessions whose contexts are simulated, by part, drawn under ``seed``.

    ``collect.num_contexts`` is divided in the proportion of the discriminator's training and validation sessions. A
    part with fewer sessions gives all of them.
    """
    train, validation = discriminator.num_train_sessions, discriminator.num_validation_sessions
    share = train / (train + validation)
    num_contexts = {"adversarial": round(collect.num_contexts * share)}
    num_contexts["evaluation"] = collect.num_contexts - num_contexts["adversarial"]
    chosen = {}
    for part in PARTS:
        order = sorted(sessions[part], key=lambda s: derive_seed(seed, "context", s.session_id))
        chosen[part] = order[: num_contexts[part]]
    return chosen


def plan_episodes(
    contexts: Mapping[str, Sequence[Session]], chatbots: Sequence[str], config: CollectConfig, seed: int
) -> list[Episode]:
    """Returns the episodes to collect: ``simulations_per_context`` of every context, each with a chatbot.

    Raises:
        ConfigError: with ``assignment: as_real``, a real session's chatbot is not in the roster.
    """
    names = sorted(chatbots)
    planned = [
        (session, simulation)
        for part in PARTS
        for session in contexts[part]
        for simulation in range(config.simulations_per_context)
    ]
    order = sorted(
        range(len(planned)), key=lambda i: derive_seed(seed, "assign", planned[i][0].session_id, planned[i][1])
    )
    rank_of = {index: rank for rank, index in enumerate(order)}
    episodes = []
    for index, (session, simulation) in enumerate(planned):
        if config.assignment == "as_real":
            chatbot = session.chatbot
            if chatbot not in names:
                raise ConfigError(
                    f"collect.assignment: with as_real, {chatbot!r} of session {session.session_id} must be one of the "
                    f"chatbots, {', '.join(names)}; add it to chatbots, or set collect.assignment to balanced"
                )
        elif config.assignment == "balanced":
            chatbot = names[rank_of[index] % len(names)]
        else:
            chatbot = names[derive_seed(seed, "chatbot", session.session_id, simulation) % len(names)]
        episodes.append(
            Episode(
                episode_id=simulation_id(session.session_id, simulation),
                context_id=session.session_id,
                counterpart=chatbot,
                seed=derive_seed(seed, "episode", session.session_id, simulation),
            )
        )
    return episodes


def simulate(
    folder: Path,
    title: str,
    version: str,
    simulator: Speaker,
    chatbots: Mapping[str, Speaker],
    contexts: Mapping[str, Sequence[Session]],
    config: CollectConfig,
    limits: Limits,
    seed: int,
    progress: Path | None = None,
) -> None:
    """Simulates all conversations, with the simulator as the env's policy, and writes them to ``folder``.

    Raises:
        PhaseError: more conversations failed than ``collect.max_failed_share`` allows; raised as soon as that is so.
    """
    scenarios = [Scenario.of_session(s, OPENERS[config.opener]) for part in PARTS for s in contexts[part]]
    core = ConversationCore(scenarios, chatbots, "user", limits)
    episodes = plan_episodes(contexts, list(chatbots), config, seed)
    origins = {s.session_id: (part, s.user_id) for part in PARTS for s in contexts[part]}
    # The file has no name, so that nothing is left of it when the process is killed.
    with counting(title, len(episodes), progress) as advance, TemporaryFile(dir=folder.parent) as file:
        counts, written = Conversations(version), _Unordered(file)
        collected = collect(simulator, core.sibling, counts.begun(episodes), concurrency=config.concurrency)
        checked = few_failures(counts.ended(collected), config.max_failed_share, len(episodes), title)
        tally = run(_write_each(checked, version, origins, written, advance))
        folder.mkdir()
        for name in ("sessions.jsonl", "conversations.jsonl.gz"):
            write_atomic(folder / name, written.lines(name, episodes))
    write_json(folder / "counts.json", dict(tally))


class _Unordered:
    """Lines of files on disk, in the order in which conversations end; only their places are in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, dict[str, int]] = {}

    def add(self, name: str, episode: Episode, line: bytes) -> None:
        """Appends an episode's line for the file ``name``."""
        self._places.setdefault(name, {})[episode.episode_id] = self._file.tell()
        self._file.write(line)

    def lines(self, name: str, episodes: Sequence[Episode]) -> Iterator[bytes]:
        """Yields the lines of ``name`` in the order of ``episodes``."""
        places = self._places.get(name, {})
        for episode in episodes:
            if (place := places.get(episode.episode_id)) is not None:
                self._file.seek(place)
                yield self._file.readline()


async def _write_each(
    results: AsyncIterator[Collected],
    version: str,
    origins: Mapping[str, tuple[str, str]],
    written: _Unordered,
    advance: Callable[[], None],
) -> Counter[str]:
    """Writes each conversation as soon as it ends; returns the counts.

    Args:
        results: the conversations.
        version: the simulator's.
        origins: part and user of each context.
        written: where the lines go.
        advance: called for each conversation.
    """
    counts: Counter[str] = Counter(episodes=0)
    async for result in results:
        advance()
        episode, state = result.episode, result.state
        counts["episodes"] += 1
        counts["redone"] += result.attempts - 1
        if state is None:
            counts[f"failed_{result.failure}"] += 1
            continue
        assert state.end is not None
        counts[f"ended_{state.end.by}_{state.end.reason}"] += 1
        if not state.num_user_turns:
            counts["without_user_message"] += 1
            continue
        counts["sessions"] += 1
        part, user_id = origins[episode.context_id]
        session = to_session(
            state,
            session_id=episode.episode_id,
            source=f"rlenv:{version}",
            chatbot=episode.counterpart,
            user_id=user_id,
        )
        extra = {
            "context_id": episode.context_id,
            "part": part,
            "simulator": version,
            "seed": episode.seed,
            "ended_by": state.end.by,
            "end_reason": state.end.reason,
            "provenance": result.provenance.model_dump(mode="json") if result.provenance else None,
        }
        written.add("sessions.jsonl", episode, to_line(session_dict(session.model_copy(update=extra))))
        written.add("conversations.jsonl.gz", episode, to_line(state.model_dump(mode="json")))
    return counts


def read_simulated(folder: Path) -> list[Simulated]:
    """Returns the conversations that ``simulate`` wrote, in order."""
    sessions = read_sessions(folder / "sessions.jsonl", neighbours="keep")
    states = read_records(folder / "conversations.jsonl.gz", ConversationState)
    result = []
    try:
        for session, state in zip(sessions, states, strict=True):
            extra = session.model_extra or {}
            simulation = int(session.session_id.rsplit("#", 1)[1])
            result.append(Simulated(session, state, extra["context_id"], extra["part"], simulation))
    except (ValueError, IndexError, KeyError) as error:  # a line is missing, or has other fields
        raise DataError([damaged(folder / "sessions.jsonl", error)]) from None
    return result
