"""What rewards are worth at single messages, by hand and on messages drawn from a known density ratio."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest

from rlenv.core.errors import OverlongError
from rlenv.core.types import Message, Sampling, Session, SessionScores
from rlenv.evaluation.rewards import RealAmongSimulated, compare_with_real, reward_check
from rlenv.learning.preferences import PreferencesConfig
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, ScriptedEngine
from trainers.pretrain.loop import train_tokenizer


def at(session, real, *simulated, turn=1):
    return RealAmongSimulated(session_id=session, turn=turn, real=real, simulated=simulated)


def drawn(num, scale, seed=0, alternatives=8):
    """Messages of which the real one is drawn with probability softmax(r); the discriminator says scale * r."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(num):
        rewards = rng.normal(size=1 + alternatives)
        real = rng.choice(1 + alternatives, p=np.exp(rewards) / np.exp(rewards).sum())
        said = scale * rewards
        found.append(at(f"s{i // 2}", said[real], *np.delete(said, real), turn=i % 2 + 1))
    return found


def test_accuracy_gain_and_curve_by_hand():
    check = reward_check([at("a", 1.0, 0.0, 2.0), at("b", 0.0, 0.0, -math.log(3))])
    assert check.accuracy.value == pytest.approx((1 + 0.5 + 1) / 4)
    one = math.log(3) + 1 - math.log(math.e + 1 + math.e**2)
    other = math.log(3) - math.log(1 + 1 + 1 / 3)
    assert check.gain.value == pytest.approx((one + other) / 2)
    assert (check.num_turns, check.num_pairs, check.accuracy.num) == (2, 4, 2)
    bins = {round(b.low, 1): (b.num, b.share_real) for b in check.curve.bins if b.num}
    assert bins == {0.5: (1, 0.0), 0.7: (3, pytest.approx(2 / 3))}


def test_turns_with_different_numbers_of_alternatives_count_by_pairs_and_by_turns():
    check = reward_check([at("a", 1.0, 0.0), at("a", 0.0, 1.0, 1.0, 1.0, turn=2), at("b", 5.0)])
    assert check.accuracy.value == 0.25 and check.num_turns == 2
    assert check.gain.value == pytest.approx(
        (math.log(2) - math.log1p(math.exp(-1)) + math.log(4) - math.log(1 + 3 * math.e)) / 2
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_scale_undoes_what_a_discriminator_does_to_the_true_log_odds(scale):
    check = reward_check(drawn(800, scale))
    assert check.scale.low < 1 / scale < check.scale.high
    assert check.scale.value == pytest.approx(1 / scale, rel=0.1)


def test_rewards_that_are_the_density_ratio_are_calibrated_and_gain():
    check = reward_check(drawn(800, 1.0))
    assert check.curve.expected_error < 0.02 and check.gain.low > 0.1


def test_rewards_that_know_nothing_have_accuracy_one_half_scale_0_and_lose():
    rng = np.random.default_rng(1)
    check = reward_check([at(f"s{i}", *rng.normal(size=9)) for i in range(800)])
    assert check.accuracy.low < 0.5 < check.accuracy.high
    assert check.scale.value < 0.1 and check.gain.high < 0


def test_without_turns_figures_are_none():
    check = reward_check([at("a", 1.0)], num_too_long=3)
    assert check.accuracy.value is check.gain.value is check.scale.value is None
    assert (check.num_turns, check.num_pairs, check.num_too_long) == (0, 0, 3)


class Counting:
    """A discriminator whose log-odds after a message are its number of words."""

    async def log_odds(self, session, branches=()):
        if session.session_id == "long":
            raise OverlongError("too long")
        branches = tuple(tuple(float(len(text.split())) for text in branch.texts) for branch in branches)
        return SessionScores(session_id=session.session_id, log_odds=(0.0,), branches=branches)


@pytest.fixture
def simulator():
    said = ["I sleep badly and it is mostly work, I think. user assistant system after one two three"] * 3
    chat = chat_format(train_tokenizer(said, 400, 2048))
    plain = [i for i in range(len(chat.tokenizer)) if i not in chat.tokenizer.all_special_ids]
    return EngineSpeaker(
        "simulator", ScriptedEngine(plain, EngineScript()), chat, "user", lambda _: "Speak.", Sampling(max_tokens=6)
    )


def test_the_real_message_is_scored_beside_replies_to_what_was_said_before_it(simulator):
    words = ("one", "one two", "one two three")
    messages = [
        Message(role=role, content=text)
        for said in words
        for role, text in (("assistant", f"after {said}"), ("user", said))
    ]
    sessions = [Session(session_id=name, messages=messages) for name in ("a", "long")]
    read: list[str] = []
    generate = simulator.engine.generate

    async def noted(token_ids, *rest):
        read.append(simulator.format.tokenizer.decode(token_ids))
        return await generate(token_ids, *rest)

    simulator.engine.generate = noted
    config = PreferencesConfig(num_alternatives=4, num_turns=5)
    found, num_too_long = asyncio.run(compare_with_real(sessions[:1], simulator, Counting(), config, 2, 0))
    assert [(each.turn, each.real) for each in found] == [(1, 1.0), (2, 2.0)]  # of three turns, two may be drawn
    assert num_too_long == 0 and len(read) == 8
    assert len({text for text in read if "after one two" in text}) == 1  # the second turn's prompt
    assert not any("three" in text for text in read)
    found, num_too_long = asyncio.run(compare_with_real(sessions[1:], simulator, Counting(), config, 2, 0))
    assert (found, num_too_long) == ([], 1)
