"""Correlation of chatbots' issue rates with simulated and with real users (Table 3, Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlenv.core.types import Record, Session
from rlenv.evaluation.statistics.rates import IssueRate, issue_counts, issue_rate
from rlenv.evaluation.statistics.validity import Correlation, correlate
from rlenv.evaluation.subjects import Simulator

NUM_SPLITS = 200


class ChatbotRate(Record):
    """One chatbot configuration with one kind of user."""

    chatbot: str
    num_sessions: int
    rate: IssueRate


class ValidityRow(Record):
    """One row of Table 3."""

    name: str
    rates: tuple[ChatbotRate, ...]
    """All chatbots of either side, in the order of the real rates; a chatbot missing on a side has None as rate."""
    correlation: Correlation
    left_out: tuple[str, ...]
    """Chatbots without annotated messages on one of the sides."""


class ValidityTable(Record):
    """Table 3 and the data of Figure 6."""

    real: tuple[ChatbotRate, ...]
    rows: tuple[ValidityRow, ...]
    reliability: float | None
    """Reliability of the real rates: the correlation between two halves of each chatbot's real sessions, corrected to
    full length (Spearman-Brown). Even a perfect simulator is not expected above its square root."""
    notes: tuple[str, ...]


def validity_table(simulators: Sequence[Simulator], real: Sequence[Session], seed: int = 0) -> ValidityTable:
    """Returns the correlation of each simulator's issue rates with the real ones over chatbots."""
    names = sorted({s.chatbot for sessions in (real, *(x.sessions for x in simulators)) for s in sessions})
    real_cells = {name: _rate(name, real, seed) for name in names}
    names.sort(key=lambda name: (not real_cells[name].rate.num_messages, _share(real_cells[name]), name))
    rows, notes = [], []
    for simulator in simulators:
        simulated_cells = {name: _rate(name, simulator.sessions, seed) for name in names}
        both = [n for n in names if real_cells[n].rate.num_messages and simulated_cells[n].rate.num_messages]
        left_out = tuple(n for n in names if n not in both)
        correlation = correlate(
            [_share(real_cells[n]) for n in both],
            [_share(simulated_cells[n]) for n in both],
            seed=seed,
        )
        rows.append(
            ValidityRow(
                name=simulator.name,
                rates=tuple(simulated_cells[n] for n in names),
                correlation=correlation,
                left_out=left_out,
            )
        )
        if left_out:
            notes.append(
                f"{simulator.name}: left out, without annotated sessions on one side: {', '.join(sorted(left_out))}"
            )
        if correlation.r is None:
            notes.append(
                f"{simulator.name}: no correlation over {len(both)} chatbots (three with different rates are needed)"
            )
    return ValidityTable(
        real=tuple(real_cells[n] for n in names),
        rows=tuple(rows),
        reliability=_reliability(real, seed),
        notes=tuple(notes),
    )


def _rate(chatbot: str, sessions: Sequence[Session], seed: int) -> ChatbotRate:
    own = [s for s in sessions if s.chatbot == chatbot]
    return ChatbotRate(chatbot=chatbot, num_sessions=len(own), rate=issue_rate(own, seed))


def _share(found: ChatbotRate) -> float:
    value = found.rate.estimate.value
    return math.nan if value is None else value


def _reliability(real: Sequence[Session], seed: int) -> float | None:
    """Returns the split-half reliability of the real rates, from the mean over random splits; None if undefined."""
    by_chatbot = []
    for name in sorted({s.chatbot for s in real}):
        events, messages = (np.array(x) for x in issue_counts([s for s in real if s.chatbot == name]))
        events, messages = events[messages > 0], messages[messages > 0]
        if len(messages) > 1:
            by_chatbot.append((events, messages))
    if len(by_chatbot) < 3:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(NUM_SPLITS):
        pairs = []
        for events, messages in by_chatbot:
            first, second = np.array_split(rng.permutation(len(messages)), 2)
            pairs.append([events[half].sum() / messages[half].sum() for half in (first, second)])
        x, y = np.array(pairs).T
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            found.append(float(np.corrcoef(x, y)[0, 1]))
    if len(found) < NUM_SPLITS / 2:
        return None
    r = float(np.mean(found))
    return 2 * r / (1 + r) if r > 0 else 0.0
