"""Finds turns in which the simulator was at fault: its answer looks far less real than its answers usually do.

The reward of such a turn says nothing about the chatbot's message before it, so that message is masked or gets a lower
weight in training. An answer is judged by its Eq. 4 reward and not by its log-odds, which accumulate: one bad answer
would count against all later ones. The conversation's return is unchanged: masking only selects what is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from rlenv.core.errors import ConfigError
from rlenv.core.log_odds import turn_rewards
from rlenv.core.settings import Settings, settings
from rlenv.core.types import ConversationState

MIN_REFERENCE = 100


@settings
class FaultConfig(Settings):
    """When the simulator's answer is at fault, and the weight of the chatbot's message before it."""

    quantile: float = Field(default=0.01, ge=0, le=1)
    """An answer is at fault if its Eq. 4 reward is below this quantile of the reference sample; 0 switches this off."""
    weight: float = Field(default=0.0, ge=0, le=1)
    """Weight of the chatbot's message before such an answer: 0 masks it, 1 changes nothing."""


def fault_threshold(reference: Sequence[Sequence[float]], config: FaultConfig) -> float:
    """Returns the Eq. 4 reward below which an answer is at fault; minus infinity if switched off.

    Args:
        reference: the log-odds, [T + 1] each, of n sessions in which the simulator behaves normally: those of the
            discriminator's validation, for example.
        config: the quantile.

    Raises:
        ConfigError: there are fewer than ``MIN_REFERENCE`` user messages.
    """
    if config.quantile == 0:
        return -np.inf
    rewards = np.concatenate([turn_rewards(log_odds) for log_odds in reference]) if len(reference) else np.zeros(0)
    if len(rewards) < MIN_REFERENCE:
        raise ConfigError(
            f"faults: the reference sample has {len(rewards)} user messages, expected {MIN_REFERENCE} or more; give "
            "more sessions, or set faults.quantile to 0"
        )
    return float(np.quantile(rewards, config.quantile))


def message_weights(
    state: ConversationState, log_odds: Sequence[float], threshold: float, config: FaultConfig
) -> tuple[float, ...]:
    """Returns the ``turn_weights`` of a conversation: one for each message of the chatbot.

    If the chatbot ended the session without a message, that counts as a message.

    Args:
        state: the finished conversation.
        log_odds: [T + 1] of its T user messages.
        threshold: from ``fault_threshold``.
        config: the weight.

    Raises:
        ConfigError: the number of log-odds does not match the number of user messages.
    """
    rewards = turn_rewards(log_odds)
    if len(rewards) != state.num_user_turns:
        raise ConfigError(
            f"conversation {state.context_id}: {len(rewards) + 1} log-odds for {state.num_user_turns} user messages; "
            f"expected {state.num_user_turns + 1}: the prior and one for each message"
        )
    weights: list[float] = []
    answers = 0
    for turn in state.turns:
        if turn.role == "user":
            if weights and rewards[answers] < threshold:
                weights[-1] = config.weight
            answers += 1
        else:
            weights.append(1.0)
    if state.end is not None and state.end.by == "chatbot" and state.end.said is not None:
        weights.append(1.0)
    return tuple(weights)
