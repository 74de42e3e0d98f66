"""A/B tests of chatbots in simulation next to the same tests with real users (Table 5), and the sessions they need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.types import Record, Session
from rlenv.data.sessions import text_digest
from rlenv.evaluation.statistics.rates import issue_counts
from rlenv.evaluation.statistics.validity import (
    Proportions,
    Verdict,
    effective_number,
    messages_needed,
    replication,
    two_proportion_test,
)
from rlenv.evaluation.subjects import Simulator


class AbTest(Record):
    """Two chatbots to compare."""

    name: str
    control: str
    treatment: str


class Arms(Record):
    """The test on one kind of user."""

    test: Proportions
    """The z-test that treats messages as independent, as in the paper."""
    clustered_p: float | None
    """The p-value corrected for the dependence of a session's messages (design effect)."""
    sessions_needed: int | None
    """Sessions an arm with which this many users' difference would be found (power 0.8); None where there is none."""
    num_sessions_control: int
    num_sessions_treatment: int


class AbRow(Record):
    """One row of Table 5."""

    name: str
    control: str
    treatment: str
    simulator: str
    simulated: Arms | None
    """None if an arm has no annotated message; a note names it."""
    real: Arms | None
    verdict: Verdict | None
    sessions_for_effect: int | None
    """Simulated sessions per arm needed to detect a rise of ``effect`` over the simulated control's rate."""


class AbTable(Record):
    """Table 5."""

    rows: tuple[AbRow, ...]
    effect: float
    """The rise of the issue rate assumed by ``sessions_for_effect``, as a difference of shares."""
    alpha: float
    warnings: tuple[str, ...] = ()
    """Tests whose arms have the same conversations."""
    notes: tuple[str, ...]


def ab_table(
    tests: Sequence[AbTest],
    simulators: Sequence[Simulator],
    real: Sequence[Session],
    *,
    effect: float = 0.01,
    alpha: float = 0.05,
) -> AbTable:
    """Returns every test with every simulator, real and simulated side by side.

    Args:
        tests: the tests, with the chatbots' names.
        simulators: the simulated users.
        real: sessions of the same chatbots with real users.
        effect: difference of issue rates to plan for, in (0, 1).
        alpha: two-sided level.

    Raises:
        ConfigError: a chatbot has no sessions or is compared with itself, or the effect is outside (0, 1).
    """
    if not 0 < effect < 1:
        raise ConfigError(f"the effect to plan for must be in (0, 1), a difference of issue rates; got {effect}")
    known = {s.chatbot for sessions in (real, *(x.sessions for x in simulators)) for s in sessions}
    for test in tests:
        if test.control == test.treatment:
            raise ConfigError(
                f"A/B test {test.name}: control and treatment are both {test.control!r}; name two chatbots"
            )
        for chatbot in (test.control, test.treatment):
            if chatbot not in known:
                raise ConfigError(f"A/B test {test.name}: no chatbot {chatbot!r}; {there_are(known, chatbot)}")
    rows, notes, warnings = [], [], []
    for test in tests:
        for name, sessions in (("real users", real), *((s.name, s.sessions) for s in simulators)):
            control, treatment = (
                {text_digest(s) for s in sessions if s.chatbot == chatbot} for chatbot in (test.control, test.treatment)
            )
            if 2 * len(control & treatment) >= max(1, min(len(control), len(treatment))):
                warnings.append(
                    f"NOT EVIDENCE: A/B test {test.name}: with {name}, {len(control & treatment)} sessions of the two "
                    "chatbots are the same word for word, so the test compares them with themselves"
                )
        with_real = compare_arms(test.control, test.treatment, real, alpha)
        if with_real is None:
            notes.append(f"{test.name}: an arm has no annotated message with real users")
        for simulator in simulators:
            with_simulated = compare_arms(test.control, test.treatment, simulator.sessions, alpha)
            if with_simulated is None:
                notes.append(f"{test.name}: an arm has no annotated message with {simulator.name}")
            rows.append(
                AbRow(
                    name=test.name,
                    control=test.control,
                    treatment=test.treatment,
                    simulator=simulator.name,
                    simulated=with_simulated,
                    real=with_real,
                    verdict=replication(with_simulated.test, with_real.test, alpha)
                    if with_simulated and with_real
                    else None,
                    sessions_for_effect=_planned(test.control, simulator.sessions, effect, alpha)
                    if with_simulated
                    else None,
                )
            )
    return AbTable(rows=tuple(rows), effect=effect, alpha=alpha, warnings=tuple(warnings), notes=tuple(notes))


def compare_arms(control: str, treatment: str, sessions: Sequence[Session], alpha: float = 0.05) -> Arms | None:
    """Returns the test of two chatbots on sessions with one kind of user; None if one has no annotated message.

    Args:
        control: name of the control chatbot.
        treatment: name of the treatment chatbot.
        sessions: sessions of both; those of other chatbots are ignored.
        alpha: level assumed by ``sessions_needed``.
    """
    in_control, in_treatment = _counts(control, sessions), _counts(treatment, sessions)
    if not in_control[1] or not in_treatment[1]:
        return None
    found = two_proportion_test(sum(in_control[0]), sum(in_control[1]), sum(in_treatment[0]), sum(in_treatment[1]))
    return Arms(
        test=found,
        clustered_p=_clustered_p(in_control, in_treatment),
        sessions_needed=_sessions(found.control, found.treatment, *in_control, alpha=alpha),
        num_sessions_control=len(in_control[1]),
        num_sessions_treatment=len(in_treatment[1]),
    )


def _counts(chatbot: str, sessions: Sequence[Session]) -> tuple[list[int], list[int]]:
    events, messages = issue_counts([s for s in sessions if s.chatbot == chatbot])
    pairs = [(e, m) for e, m in zip(events, messages, strict=True) if m]
    return [e for e, _ in pairs], [m for _, m in pairs]


def _clustered_p(control: tuple[list[int], list[int]], treatment: tuple[list[int], list[int]]) -> float | None:
    scaled: list[float] = []
    for events, messages in (control, treatment):
        num = effective_number(events, messages)
        if num is None:
            return None
        scaled += [num * sum(events) / sum(messages), num]
    return two_proportion_test(*scaled).p


def _planned(chatbot: str, sessions: Sequence[Session], effect: float, alpha: float) -> int | None:
    events, messages = _counts(chatbot, sessions)
    rate = sum(events) / sum(messages)
    return _sessions(rate, rate + effect, events, messages, alpha=alpha)


def _sessions(control: float, treatment: float, events: list[int], messages: list[int], *, alpha: float) -> int | None:
    """Returns the sessions needed per arm, if they are like these; None if their design effect is undefined."""
    num = effective_number(events, messages)
    if num is None or control == treatment or not (0 < control < 1 and 0 < treatment < 1):
        return None
    return math.ceil(messages_needed(control, treatment, alpha=alpha) / num * len(messages))
