"""The subjects of an evaluation: simulators with their sessions, aggregates, and the two halves of the real sessions.

Independent of what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from pydantic import ValidationError

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record, Session
from rlenv.data.sessions import text_digest, with_messages
from rlenv.env.provenance import Provenance, check_poolable
from rlenv.evaluation.discriminators import Judgement

REAL = "real"
"""The name of the row of the real sessions, with which the others are compared."""


class Simulator(Record):
    """One simulator version (or an aggregate of several) and its sessions."""

    name: str
    sessions: tuple[Session, ...]
    members: tuple[str, ...] = ()
    """The simulators that an aggregate pools; empty for a single simulator."""
    discriminator: Judgement | None = None
    """The discriminator trained on its sessions and real ones (Table 2); None if there is none."""


class SubjectCard(Record):
    """The subject of a row of the tables."""

    name: str
    num_sessions: int
    num_users: int
    num_messages: int
    chatbots: tuple[str, ...]
    members: tuple[str, ...] = ()


def card(name: str, sessions: Sequence[Session], members: Sequence[str] = ()) -> SubjectCard:
    """Returns the subject of a simulator's row."""
    return SubjectCard(
        name=name,
        num_sessions=len(sessions),
        num_users=len({s.user_id for s in sessions}),
        num_messages=sum(len(s.messages) for s in sessions),
        chatbots=tuple(sorted({s.chatbot for s in sessions})),
        members=tuple(members),
    )


def provenance_of_session(session: Session) -> Provenance | None:
    """Returns the provenance stored with a session; None if there is none."""
    value = (session.model_extra or {}).get("provenance")
    if value is None:
        return None
    try:
        return Provenance.model_validate(value)
    except ValidationError:
        raise ConfigError(f"session {session.session_id}: its provenance is not one that rlenv wrote") from None


def context_of(session: Session) -> str | None:
    """Returns the id of the real session whose context a simulated one uses; None if it is not stored."""
    extra = session.model_extra or {}
    said = extra.get("context_id")
    if said is None and (provenance := provenance_of_session(session)) is not None:
        said = provenance.context_id
    return None if said is None else str(said)


def check_subjects(simulators: Sequence[Simulator], real: Sequence[Session], allow_mixed: bool = False) -> None:
    """Checks that the simulators can be compared with the real sessions.

    Args:
        simulators: their names must differ; each has the sessions of one simulator version, unless it is an aggregate.
        real: the real sessions.
        allow_mixed: allow sessions of different versions under one name.

    Raises:
        ConfigError: a side is empty, a name is used twice, or versions are mixed; all problems are reported.
    """
    problems = [] if real else ["there are no real sessions to compare with"]
    if not simulators:
        problems.append("there is no simulator to compare")
    names = [s.name for s in simulators]
    problems += [f"two simulators are named {n!r}; name them apart" for n in sorted(set(names)) if names.count(n) > 1]
    if REAL in names:
        problems.append(f"a simulator is named {REAL!r}, which is the row of the real sessions; give it another name")
    for simulator in simulators:
        if not simulator.sessions:
            problems.append(f"{simulator.name}: no sessions")
        if not simulator.members:
            try:
                check_poolable((provenance_of_session(s) for s in simulator.sessions), allow_mixed)
            except ConfigError as error:
                problems.append(f"{simulator.name}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def left_out_empty(
    simulators: Sequence[Simulator], real: Sequence[Session]
) -> tuple[list[Simulator], list[Session], list[str]]:
    """Returns the simulators and real sessions without empty sessions, and notes with their numbers."""
    notes = []

    def kept(name: str, sessions: Sequence[Session]) -> list[Session]:
        found, num_empty = with_messages(sessions)
        if num_empty:
            notes.append(f"{name}: {num_empty} of {len(sessions)} sessions have no messages and are left out")
        return found

    kept_real = kept(REAL, real)
    kept_simulators = [s.model_copy(update={"sessions": tuple(kept(s.name, s.sessions))}) for s in simulators]
    return kept_simulators, kept_real, notes


def same_sessions(simulators: Sequence[Simulator], real: Sequence[Session]) -> list[str]:
    """Returns a warning for each two sides of the evaluation that have the same conversations, word for word.

    A few may be equal by chance (such as a single greeting). If half of a side is equal, it is a copy, and comparing a
    set with itself (r = 1, no distance) is no evidence.
    """
    sides = [(REAL, real), *((s.name, s.sessions) for s in simulators if not s.members)]
    texts = [(name, {text_digest(s) for s in sessions}) for name, sessions in sides]
    return [
        f"NOT EVIDENCE: {len(one & two)} of the {len(two)} different sessions of {second} are also those of {first}, "
        "word for word; figures that compare the two compare a set with itself"
        for (first, one), (second, two) in combinations(texts, 2)
        if 2 * len(one & two) >= max(1, min(len(one), len(two)))
    ]


def aggregate(name: str, simulators: Mapping[str, Simulator], members: Iterable[str]) -> Simulator:
    """Returns several simulators pooled into one (Section 5.2, the ensemble of B.4).

    Session ids are prefixed with the member's name. A member with more sessions has more weight.

    Raises:
        ConfigError: there is no such member, or fewer than two are named.
    """
    members = tuple(dict.fromkeys(members))
    unknown = [m for m in members if m not in simulators]
    if unknown:
        raise ConfigError(f"aggregate {name}: no simulator {unknown[0]!r}; {there_are(list(simulators), unknown[0])}")
    if len(members) < 2:
        raise ConfigError(f"aggregate {name}: expected two simulators or more, got {len(members)}")
    pooled = [
        session.model_copy(update={"session_id": f"{member}:{session.session_id}"})
        for member in members
        for session in simulators[member].sessions
    ]
    return Simulator(name=name, sessions=tuple(pooled), members=members)


def halves(sessions: Sequence[Session], seed: int = 0) -> tuple[list[Session], list[Session]] | None:
    """Returns the sessions in two halves that share no user, or None with fewer than two users.

    The distance between the halves is what a perfect simulator would score with half the sessions. The tables give it
    as the lower bound of each distance.
    """
    users = sorted({s.user_id for s in sessions}, key=lambda user: derive_seed(seed, "half", user))
    if len(users) < 2:
        return None
    first = set(users[::2])
    return [s for s in sessions if s.user_id in first], [s for s in sessions if s.user_id not in first]
