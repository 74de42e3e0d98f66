"""Messages drawn from several candidates: in proportion to exp(log-odds), equal for equal seeds, leaving as often."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from rlenv.core.types import Branch, ConversationState, Session, SessionContext, SessionScores, Utterance
from rlenv.env.conversation import begin
from rlenv.env.provenance import SpeakerCard
from rlenv.speakers.resampled import ResampledSpeaker, resampled

SHARES = {"plain": 0.6, "mixed": 0.3, "real": 0.1}
LOG_ODDS = {"plain": -1.0, "mixed": 0.0, "real": 2.0}


class Categorical:
    """A simulator that says one of three words, or leaves without a message."""

    name = "base"

    def __init__(self, leaves: float = 0.0) -> None:
        self.leaves = leaves

    def describe(self) -> SpeakerCard:
        return SpeakerCard(name=self.name, kind="engine", version="base")

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        rng = np.random.default_rng(seed)
        if rng.random() < self.leaves:
            return Utterance(text="", ends_session=True)
        return Utterance(text=str(rng.choice(list(SHARES), p=list(SHARES.values()))))

    async def replies(self, state: ConversationState, seeds: Sequence[int]) -> list[Utterance]:
        return [await self.reply(state, seed) for seed in seeds]


class Judge:
    """Gives each word its log-odds."""

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        (branch,) = branches
        assert branch.turn == len(session.user_messages())
        return SessionScores(
            session_id=session.session_id, log_odds=(0.0, 0.0), branches=(tuple(LOG_ODDS[t] for t in branch.texts),)
        )


def shares(n: int, leaves: float = 0.0, draws: int = 3000) -> dict[str, float]:
    speaker = ResampledSpeaker(Categorical(leaves), Judge(), n)  # type: ignore[arg-type]
    state = begin("c", SessionContext())

    async def texts() -> list[str]:
        return [(await speaker.reply(state, seed)).text for seed in range(draws)]

    return {text: count / draws for text, count in Counter(asyncio.run(texts())).items()}


def test_many_candidates_give_the_density_ratio_times_the_simulator():
    weights = {text: share * math.exp(LOG_ODDS[text]) for text, share in SHARES.items()}
    found = shares(64, draws=1500)
    for text, weight in weights.items():
        assert found[text] == pytest.approx(weight / sum(weights.values()), abs=0.04)


def test_one_candidate_is_the_simulator_itself():
    found = shares(1)
    for text, share in SHARES.items():
        assert found[text] == pytest.approx(share, abs=0.03)
    plain = Categorical()
    assert resampled(plain, Judge(), 1) is plain  # type: ignore[arg-type,comparison-overlap]


def test_more_candidates_come_closer():
    assert shares(1)["real"] < shares(2)["real"] < shares(8)["real"]


def test_the_user_leaves_as_often_as_the_simulator():
    assert shares(6, leaves=0.25)[""] == pytest.approx(0.25, abs=0.03)


def test_equal_seeds_give_equal_messages():
    assert shares(4, draws=50) == shares(4, draws=50)


def test_provenance_names_the_candidates():
    card = ResampledSpeaker(Categorical(), Judge(), 6).describe()  # type: ignore[arg-type]
    assert card.resampled_from == 6
    assert card.key != Categorical().describe().key
