"""Whether the rewards of Eq. 4 know people: the real message among the simulator's own, at the same place.

In a real session the simulator answers in the user's place, n times. If the discriminator's odds are the density ratio
of real and simulated sessions (the optimum of Eq. 3), the real message of n + 1 has the probability softmax(r) of its
reward among theirs, and of a real and a simulated one sigma(r_real - r_simulated). Preferences (lines 6 to 8) rest on
such differences alone: how often their sign is right, and whether their size is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from rlenv.core.aio import all_of
from rlenv.core.errors import OverlongError
from rlenv.core.protocols import Discriminator
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Branch, Record, Session
from rlenv.env.conversation import from_session
from rlenv.evaluation.discriminators import Calibration, calibration
from rlenv.evaluation.statistics.intervals import Estimate, estimate_ratio
from rlenv.learning.preferences import PreferencesConfig, drawn_turns, sample_alternatives
from rlenv.speakers.engine import EngineSpeaker

LARGEST_SCALE = 10.0
SCALE_RESAMPLES = 200


class RealAmongSimulated(Record):
    """The log-odds after the real message of a turn, and after the simulator's own in its place."""

    session_id: str
    turn: int
    """Counts the user's messages from 1."""
    real: float
    simulated: tuple[float, ...]
    """[n], of the alternatives that have text."""


class RewardCheck(Record):
    """What rewards are worth at single messages, with bootstrap intervals over sessions."""

    accuracy: Estimate
    """Share of pairs of a real and a simulated message in which the real one has the higher reward; 0.5 is chance."""
    gain: Estimate
    """Mean of log softmax(r) of the real message beyond chance, in nats a turn; below 0, rewards promise too much."""
    scale: Estimate
    """The factor on all rewards with the largest gain, at most 10: 1 if they are calibrated, below it if they promise
    too much, 0 if they know nothing. ``dpo.beta`` of 1 / scale asks an update for so much."""
    curve: Calibration
    """Pairs by the probability, from 0.5, that the higher reward is the real message's, and how often it is."""
    num_turns: int
    num_pairs: int
    num_too_long: int = 0
    """Sessions left out because the discriminator cannot read them whole."""


async def compare_with_real(
    sessions: Sequence[Session],
    simulator: EngineSpeaker,
    discriminator: Discriminator,
    config: PreferencesConfig,
    max_turns: int,
    seed: int,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[RealAmongSimulated], int]:
    """Returns the log-odds at ``config.num_turns`` drawn turns of real sessions, and the number of sessions left out.

    Args:
        sessions: real sessions that neither the simulator nor the discriminator has seen.
        simulator: answers in the user's place, ``config.num_alternatives`` times.
        discriminator: its discriminator.
        config: numbers of turns and alternatives, and of sessions at the same time.
        max_turns: user turns beyond it are not drawn; the discriminator was not trained on them.
        seed: seed of the drawn turns and of the alternatives.
        progress: called after each session.
    """
    num_too_long = 0

    async def one(session: Session) -> list[RealAmongSimulated]:
        nonlocal num_too_long
        said = session.user_messages()
        state = from_session(session, seed=derive_seed(seed, "rewards", session.session_id))
        turns = drawn_turns(min(len(said), max_turns), config.num_turns, state.seed)
        sampled = await all_of(lambda turn: sample_alternatives(state, turn, simulator, config.num_alternatives), turns)
        branches = [
            Branch(turn=turn, texts=(said[turn - 1], *(each.text for each in alternatives if each.text)))
            for turn, alternatives in zip(turns, sampled, strict=True)
        ]
        try:
            scores = await discriminator.log_odds(session, branches)
        except OverlongError:
            num_too_long += 1
            return []
        finally:
            progress()
        return [
            RealAmongSimulated(session_id=session.session_id, turn=turn, real=log_odds[0], simulated=log_odds[1:])
            for turn, log_odds in zip(turns, scores.branches, strict=True)
        ]

    found = await all_of(one, sessions, config.concurrency)
    return [each for of_session in found for each in of_session], num_too_long


def reward_check(found: Sequence[RealAmongSimulated], num_too_long: int = 0, seed: int = 0) -> RewardCheck:
    """Returns what rewards are worth; figures are None without a turn that has alternatives.

    >>> one = RealAmongSimulated(session_id="a", turn=1, real=1.0, simulated=(0.0, 2.0))
    >>> reward_check([one]).accuracy.value
    0.5
    """
    turns = [each for each in found if each.simulated]
    differences = [each.real - np.asarray(each.simulated) for each in turns]
    place = {session: i for i, session in enumerate(dict.fromkeys(each.session_id for each in turns))}
    of_session = np.array([place[each.session_id] for each in turns], int)
    log_odds = _padded(turns)

    def per(values: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> Estimate:
        """Returns the mean of what ``values`` [turns] sum up, over ``counts`` [turns]."""
        over, under = (np.bincount(of_session, each, minlength=len(place)).tolist() for each in (values, counts))
        return estimate_ratio(over, under, seed=seed)

    flat = np.concatenate(differences) if differences else np.zeros(0)
    return RewardCheck(
        accuracy=per([float((d > 0).sum() + 0.5 * (d == 0).sum()) for d in differences], [d.size for d in differences]),
        gain=per(_gains(log_odds, 1.0), np.ones(len(turns))),
        scale=_scale(log_odds, of_session, len(place), seed),
        curve=calibration((flat > 0).tolist(), np.abs(flat).tolist()),
        num_turns=len(turns),
        num_pairs=flat.size,
        num_too_long=num_too_long,
    )


def _padded(turns: Sequence[RealAmongSimulated]) -> np.ndarray:
    """Returns the log-odds [turns, 1 + n], the real message's first, with -inf where a turn has fewer alternatives."""
    width = 1 + max((len(each.simulated) for each in turns), default=0)
    padded = np.full((len(turns), width), -np.inf)
    for row, each in zip(padded, turns, strict=True):
        row[: 1 + len(each.simulated)] = each.real, *each.simulated
    return padded


def _gains(log_odds: np.ndarray, scale: float) -> np.ndarray:
    """Returns log softmax(scale * r) of the real message plus the log of the number of messages, [turns]."""
    there = np.isfinite(log_odds)
    scaled = np.where(there, scale * np.where(there, log_odds, 0.0), -np.inf)
    return scaled[:, 0] - logsumexp(scaled, axis=1) + np.log(there.sum(axis=1))


def _scale(log_odds: np.ndarray, of_session: np.ndarray, num_sessions: int, seed: int) -> Estimate:
    """Returns the scale of the largest gain, which is concave in it."""
    if not num_sessions:
        return Estimate(value=None)

    def best(weights: np.ndarray) -> float:
        def loss(scale: float) -> float:
            return -float(weights[of_session] @ _gains(log_odds, scale))

        return float(minimize_scalar(loss, bounds=(0.0, LARGEST_SCALE), method="bounded").x)

    value = best(np.ones(num_sessions))
    if num_sessions < 2:
        return Estimate(value=value, num=num_sessions)
    drawn = np.random.default_rng(seed).multinomial(
        num_sessions, np.full(num_sessions, 1 / num_sessions), size=SCALE_RESAMPLES
    )
    low, high = np.quantile([best(weights) for weights in drawn], [0.025, 0.975])
    return Estimate(value=value, low=float(low), high=float(high), num=num_sessions)
