"""Training rows: only the trained seat's tokens are trained on, and no message whose answer was at fault."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import ConversationState, End, SessionContext, Turn, Utterance
from rlenv.env.provenance import Provenance, SpeakerCard
from rlenv.learning.credit import CreditConfig
from rlenv.learning.rows import ConversationGroup, training_rows
from rlenv.learning.simulator_faults import FaultConfig, fault_threshold, message_weights
from rlenv.learning.trajectory import Trajectory

PLAIN = CreditConfig(level="turn", estimator="rloo", scale="none")


def origin(seed: int, context: str = "c", simulator: str = "it3") -> Provenance:
    return Provenance(
        simulator=SpeakerCard(name=simulator),
        chatbot=SpeakerCard(name="bot"),
        seat="chatbot",
        context_id=context,
        context_digest="0",
        seeds=(seed,),
    )


def trajectory(*rewards: float, seed: int = 0, **changes) -> Trajectory:
    """Own messages of two tokens with three of the user's between them."""
    owners = [number for turn in range(1, len(rewards) + 1) for number in (turn, turn, 0, 0, 0)][:-3]
    fields = {
        "episode_id": f"e{seed}",
        "seat": "chatbot",
        "prompt_ids": (1, 2, 3),
        "completion_ids": tuple(range(10, 10 + len(owners))),
        "action_mask": tuple(int(n > 0) for n in owners),
        "logprobs": tuple(-0.5 if n else 0.0 for n in owners),
        "turn_of_token": tuple(owners),
        "rewards": rewards,
        "reward_parts": tuple({"a": r - 1.0, "b": 1.0} for r in rewards),
        "provenance": origin(seed),
        "terminated": True,
        "truncated": False,
    }
    return Trajectory(**fields | changes)


def test_a_row_has_each_turns_advantage_on_its_own_tokens_and_nothing_on_the_users():
    group = ConversationGroup(group_id="g", trajectories=(trajectory(1.0, 2.0), trajectory(5.0, seed=1)), num_failed=1)
    rows, counts = training_rows([group], PLAIN)
    # To go: (3, 2) and (5, 0).
    assert rows[0].advantages == (-2.0, -2.0, 0, 0, 0, 2.0, 2.0) and rows[0].mask == (1, 1, 0, 0, 0, 1, 1)
    assert rows[1].advantages == (2.0, 2.0)
    assert [r.reward for r in rows] == [3.0, 5.0]
    assert rows[0].reward_parts == {"a": 1.0, "b": 2.0} and rows[0].num_turns == 2
    assert counts == {
        "groups": 1,
        "conversations": 2,
        "failed": 1,
        "lone_groups": 0,
        "own_turns": 3,
        "masked_turns": 0,
        "weighted_turns": 0,
        "truncated": 0,
    }


@pytest.mark.parametrize("level", ("session", "turn"))
def test_no_token_of_the_user_ever_has_weight(level):
    rng = np.random.default_rng(0)
    groups = []
    for g in range(20):
        trajectories = tuple(trajectory(*rng.normal(size=rng.integers(1, 6)), seed=i) for i in range(4))
        weights = tuple(tuple(float(w) for w in rng.choice([0, 0.5, 1], len(t.rewards))) for t in trajectories)
        groups.append(ConversationGroup(group_id=str(g), trajectories=trajectories, turn_weights=weights))
    rows, _ = training_rows(groups, CreditConfig(level=level))
    own = [t for group in groups for t in group.trajectories]
    for row, source in zip(rows, own, strict=True):
        for mask, advantage, mine in zip(row.mask, row.advantages, source.action_mask, strict=True):
            assert mine or (mask == 0 and advantage == 0)
    assert any(any(row.mask) for row in rows)


def test_a_masked_message_leaves_the_mask_and_a_lighter_one_has_a_smaller_advantage():
    pair = (trajectory(1.0, 2.0), trajectory(5.0, seed=1))
    group = ConversationGroup(group_id="g", trajectories=pair, turn_weights=((0.0, 0.25), (1.0,)))
    rows, counts = training_rows([group], PLAIN)
    assert rows[0].mask == (0, 0, 0, 0, 0, 1, 1) and rows[0].advantages == (0, 0, 0, 0, 0, 0.5, 0.5)
    assert rows[1].advantages == (2.0, 2.0)  # masking does not change the rewards that are compared
    assert (counts["own_turns"], counts["masked_turns"], counts["weighted_turns"]) == (3, 1, 1)


def test_a_group_of_fewer_than_two_gives_no_rows_and_is_counted():
    lone = ConversationGroup(group_id="g", trajectories=(trajectory(1.0),), num_failed=3)
    rows, counts = training_rows([lone, ConversationGroup(group_id="h", num_failed=4)], CreditConfig())
    assert rows == [] and counts["lone_groups"] == 2 and counts["failed"] == 7 and counts["conversations"] == 0


def test_a_message_without_tokens_counts_in_the_baseline_and_has_none():
    """Its end-of-session token did not end the session; leaving it out would make the baseline depend on the
    message."""
    silent = trajectory(4.0, completion_ids=(), action_mask=(), logprobs=(), turn_of_token=())
    group = ConversationGroup(group_id="g", trajectories=(silent, trajectory(1.0, seed=1)))
    rows, _ = training_rows([group], PLAIN)
    assert rows[0].advantages == () and rows[1].advantages == (-3.0, -3.0)


def test_conversations_that_cannot_be_compared_are_no_group():
    def group(*origins: Provenance, **changes) -> ConversationGroup:
        return ConversationGroup(
            group_id="g7", trajectories=tuple(trajectory(1.0, provenance=o) for o in origins), **changes
        )

    group(origin(0), origin(1))
    for other, expected in (
        (origin(1, context="d"), "2 different contexts"),
        (origin(1, simulator="base"), "2 different simulators"),
        (origin(0), "equal seeds"),
    ):
        with pytest.raises(ConfigError, match=f"group g7: .*{expected}"):
            group(origin(0), other)
    with pytest.raises(ConfigError, match="expected one turn weight for each own message"):
        group(origin(0), turn_weights=((1.0, 1.0),))
    with pytest.raises(ConfigError, match="outside 0 to 1"):
        group(origin(0), turn_weights=((2.0,),))


# ------------------------------------------------------------------------------------ the simulator's faults


def conversation(*roles: str, said: bool = False) -> ConversationState:
    turns = tuple(Turn(role=r, utterance=Utterance(text="x")) for r in roles)
    end = End(by="chatbot", reason="end_of_session", said=Utterance(text="", ends_session=True) if said else None)
    return ConversationState(context_id="c", context=SessionContext(), opener=roles[0], seed=0, turns=turns, end=end)


def test_the_message_whose_answer_was_at_fault_is_masked_whoever_opened():
    config = FaultConfig()
    user_first = conversation("user", "assistant", "user", "assistant", "user")
    # Eq. 4: -9, 1, -9. The first is an answer to nobody.
    assert message_weights(user_first, [0, -9, -8, -17], -5, config) == (1.0, 0.0)
    chatbot_first = conversation("assistant", "user", "assistant", "user", "assistant")
    assert message_weights(chatbot_first, [0, -9, -8], -5, config) == (0.0, 1.0, 1.0)
    assert message_weights(chatbot_first, [0, -9, -8], -5, FaultConfig(weight=0.3)) == (0.3, 1.0, 1.0)
    left = conversation("assistant", "user", said=True)
    assert message_weights(left, [0, -9], -5, config) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="3 log-odds for 1 user messages"):
        message_weights(left, [0, -9, 1], -5, config)


def test_the_threshold_is_a_quantile_of_the_reference_and_can_be_switched_off():
    rng = np.random.default_rng(1)
    reference = [np.concatenate([[0], rng.normal(size=10).cumsum()]).tolist() for _ in range(50)]
    found = fault_threshold(reference, FaultConfig(quantile=0.02))
    rewards = np.sort(np.concatenate([np.diff(r) for r in reference]))
    assert (rewards < found).sum() == 10  # 2 % of 500
    assert fault_threshold([], FaultConfig(quantile=0)) == -math.inf
    with pytest.raises(ConfigError, match="has 10 user messages, expected 100"):
        fault_threshold(reference[:1], FaultConfig())
    with pytest.raises(ConfigError, match=r"FaultConfig\.weight: expected 0 or more, got -1"):
        FaultConfig(weight=-1)
