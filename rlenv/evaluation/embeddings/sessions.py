"""Figure 3: sessions as points in an embedding space, with statistics of their neighbourhoods.

    some = sample_sessions(simulators, real, config)
    vectors = ...  # one for each session, or None; made by one of ``embedders``
    embedding_table(some, vectors, config, embedder="MiniLM")

Independent of text and models. The statistics are in ``neighbours``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from rlenv.core.seeds import derive_seed
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Record, Session
from rlenv.evaluation.embeddings.neighbours import Grounding, grounding, neighbour_accuracy
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.subjects import REAL, Simulator, context_of, halves


@settings
class EmbeddingConfig(Settings):
    """The settings of Figure 3; perplexity and the number of sessions shown are the paper's (B.1)."""

    num_sessions: int = Field(default=200, ge=1)
    """The most sessions that are embedded, per simulator and of real users."""
    perplexity: float = Field(default=30.0, ge=1)
    """Of t-SNE."""
    num_shown: int = Field(default=50, ge=1)
    """Sessions of each simulator and of real users in the figure."""
    seed: int = 0
    """Of draws, halves and t-SNE."""


class EmbeddingRow(Record):
    """One simulator's sessions among the real ones."""

    name: str
    num_sessions: int
    """Embedded."""
    num_blank: int
    """Sessions without a word, left out."""
    accuracy: Estimate
    """Of a nearest neighbour in telling its sessions from real ones; 0.5 is chance."""
    grounding: Grounding | None
    """None if no session has the id of the real session with its context."""


class Point(Record):
    """A session in the plane of t-SNE."""

    name: str
    """The simulator, or "real"."""
    session_id: str
    context_id: str | None
    x: float
    y: float
    shown: bool
    """Drawn for the figure."""


class EmbeddingTable(Record):
    """Figure 3 and the numbers beside it."""

    embedder: str
    """The model that made the vectors, and the text it embedded."""
    num_real: int
    rows: tuple[EmbeddingRow, ...]
    floor: EmbeddingRow | None
    """One half of the real sessions against the other: what a perfect simulator would score on half the data."""
    perplexity: float
    num_shown: int
    points: tuple[Point, ...]
    """Empty if there are too few sessions for t-SNE; a pool has the points of its members."""
    notes: tuple[str, ...]


def sample_sessions(
    simulators: Sequence[Simulator], real: Sequence[Session], config: EmbeddingConfig
) -> dict[str, list[Session]]:
    """Returns the sessions to embed, by simulator and "real": at most ``num_sessions`` each, drawn with the seed.

    Real sessions whose context was simulated come first, and simulated sessions of those contexts, one per context
    before any second one, so that as many as possible can be compared.
    """
    simulated = {context_of(s) for simulator in simulators for s in simulator.sessions}
    real_ordered = sorted(real, key=lambda s: (s.session_id not in simulated, _draw(config, s.session_id)))
    chosen = {REAL: real_ordered[: config.num_sessions]}
    contexts = {s.session_id for s in chosen[REAL]}
    for simulator in simulators:
        seen: dict[str, int] = {}
        order = []
        for s in sorted(simulator.sessions, key=lambda s: _draw(config, s.session_id)):
            context = context_of(s)
            repeat = 0 if context is None else seen.setdefault(context, 0)
            if context is not None:
                seen[context] += 1
            order.append((context not in contexts, repeat, _draw(config, context or s.session_id), s))
        order.sort(key=lambda entry: entry[:3])
        chosen[simulator.name] = [s for *_, s in order[: config.num_sessions]]
    return chosen


def _draw(config: EmbeddingConfig, name: str) -> int:
    return derive_seed(config.seed, "embedding", name)


@dataclass(frozen=True)
class _Side:
    """Sessions of one name that have a vector."""

    name: str
    sessions: list[Session]
    contexts: list[str | None]
    """[n] of a real session its own id."""
    users: list[str]
    """[n] the real user where the context is one of theirs."""
    vectors: np.ndarray
    """[n, d] at unit length."""
    num_blank: int

    def at(self, places: Sequence[int]) -> tuple[np.ndarray, list[str]]:
        return self.vectors[list(places)], [self.users[i] for i in places]


def embedding_table(
    sessions: Mapping[str, Sequence[Session]],
    vectors: Mapping[str, Sequence[np.ndarray | None]],
    config: EmbeddingConfig,
    *,
    embedder: str,
    pools: Sequence[str] = (),
) -> EmbeddingTable:
    """Returns the numbers and the plane of Figure 3.

    Args:
        sessions: sessions by simulator, and of real users under "real"; from ``sample_sessions``.
        vectors: one for each session, of equal length; None for a session without text.
        config: the settings.
        embedder: name of the model that made the vectors, for readers.
        pools: simulators that only pool others' sessions, which t-SNE places once.
    """
    user_of = {s.session_id: s.user_id for s in sessions[REAL]}
    sides = {name: _side(name, some, vectors[name], user_of) for name, some in sessions.items()}
    real = sides.pop(REAL)
    rows = tuple(_row(side, real, config.seed) for side in sides.values())
    points, notes = _points([real, *(side for name, side in sides.items() if name not in pools)], config)
    return EmbeddingTable(
        embedder=embedder,
        num_real=len(real.sessions),
        rows=rows,
        floor=_floor(real, config.seed),
        perplexity=config.perplexity,
        num_shown=config.num_shown,
        points=tuple(points),
        notes=tuple([*notes, *(note for row in rows for note in _notes(row))]),
    )


def _side(
    name: str, sessions: Sequence[Session], vectors: Sequence[np.ndarray | None], user_of: Mapping[str, str]
) -> _Side:
    there = [(s, v) for s, v in zip(sessions, vectors, strict=True) if v is not None]
    stacked = np.array([v for _, v in there], dtype=np.float64) if there else np.zeros((0, 1))
    contexts = [s.session_id if name == REAL else context_of(s) for s, _ in there]
    return _Side(
        name=name,
        sessions=[s for s, _ in there],
        contexts=contexts,
        users=[user_of.get(c or "", s.user_id) for c, (s, _) in zip(contexts, there, strict=True)],
        vectors=stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12),
        num_blank=len(sessions) - len(there),
    )


def _row(side: _Side, real: _Side, seed: int) -> EmbeddingRow:
    place = {c: j for j, c in enumerate(real.contexts)}
    own = [(i, place[c]) for i, c in enumerate(side.contexts) if c in place]
    ground = None
    if own:
        ours, users = side.at([i for i, _ in own])
        ground = grounding(ours, real.vectors, [j for _, j in own], users, real.users, seed)
    return EmbeddingRow(
        name=side.name,
        num_sessions=len(side.sessions),
        num_blank=side.num_blank,
        accuracy=_accuracy(side, real, own, seed),
        grounding=ground,
    )


def _accuracy(side: _Side, real: _Side, own: Sequence[tuple[int, int]], seed: int) -> Estimate:
    """Balanced: the first session of each context beside its real one; without contexts, as many of each as there are.

    If any session has its real counterpart, sessions without one are left out.
    """
    pairs: dict[int, int] = {}
    for i, j in own:
        pairs.setdefault(j, i)
    places, real_ordered = list(pairs.values()), list(pairs)
    if not own:
        num = min(len(side.sessions), len(real.sessions))
        places, real_ordered = (
            sorted(range(len(s.sessions)), key=lambda i: derive_seed(seed, "balance", s.sessions[i].session_id))[:num]
            for s in (side, real)
        )
    ours, users = side.at(places)
    others, other_users = real.at(real_ordered)
    return neighbour_accuracy(others, ours, other_users, users)


def _floor(real: _Side, seed: int) -> EmbeddingRow | None:
    parts = halves(real.sessions, seed)
    if parts is None:
        return None
    ids = {s.session_id for s in parts[0]}
    one, other = ([i for i, s in enumerate(real.sessions) if (s.session_id in ids) is first] for first in (True, False))
    num = min(len(one), len(other))
    (a, a_users), (b, b_users) = real.at(one[:num]), real.at(other[:num])
    accuracy = neighbour_accuracy(a, b, a_users, b_users)
    name = "real, one half against the other"
    return EmbeddingRow(name=name, num_sessions=num, num_blank=0, accuracy=accuracy, grounding=None)


def _points(sides: Sequence[_Side], config: EmbeddingConfig) -> tuple[list[Point], list[str]]:
    vectors = np.concatenate([side.vectors for side in sides if len(side.sessions)] or [np.zeros((0, 1))])
    num = len(np.unique(vectors, axis=0))
    if num <= config.perplexity:
        return [], [
            f"Figure 3: t-SNE with perplexity {config.perplexity:g} needs more than that many different sessions, and "
            f"there are {num}; give more sessions, or a lower --perplexity"
        ]
    plane = project(vectors, config.perplexity, config.seed)
    placed = [(side, i) for side in sides for i in range(len(side.sessions))]
    return [
        Point(
            name=side.name,
            session_id=side.sessions[i].session_id,
            context_id=side.contexts[i],
            x=float(x),
            y=float(y),
            shown=i < config.num_shown,
        )
        for (side, i), (x, y) in zip(placed, plane, strict=True)
    ], []


def project(vectors: np.ndarray, perplexity: float, seed: int = 0) -> np.ndarray:
    """Returns the vectors in the plane of t-SNE, [n, 2]: the same for the same seed."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    plane = TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):  # a few hundred points: threads cost more than they bring, and sums keep their order
        return plane.fit_transform(vectors.astype(np.float32))


def _notes(row: EmbeddingRow) -> list[str]:
    said = []
    if row.num_blank:
        said.append(f"{row.name}: {row.num_blank} sessions without text are not embedded")
    if row.accuracy.value is None:
        said.append(f"{row.name}: too few users on both sides for a nearest neighbour's accuracy")
    if row.grounding is None:
        said.append(
            f"{row.name}: no session says which of the real sessions' context it has (context_id), so nothing can be "
            "said of its grounding in context"
        )
    return said
