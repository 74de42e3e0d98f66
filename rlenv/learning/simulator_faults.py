"""Turns in which the simulator was at fault: its answer looks far less real than its answers usually do.

The step of such an answer tells nothing of the chatbot's message, so that message is masked or counts less in
training. An answer is judged by its Eq. 4 reward, not by the log-odds: those add up, and one bad answer would convict
all that follow. What the conversation earned stays as it is: masking chooses what is learnt from, not what is worth.
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
    """When an answer is the simulator's fault, and what becomes of the message that it answers."""

    quantile: float = Field(default=0.01, ge=0, le=1)
    """An answer is at fault below this quantile of the reference sample; 0 switches it off."""
    weight: float = Field(default=0.0, ge=0, le=1)
    """Of the chatbot's message that was answered so: 0 masks it, 1 changes nothing."""


def fault_threshold(reference: Sequence[Sequence[float]], config: FaultConfig) -> float:
    """Returns the Eq. 4 reward below which an answer is at fault; minus infinity where that is switched off.

    Args:
        reference: [n] sessions' log-odds, [T + 1] each, of the simulator when it is as it should be: those of the
            discriminator's validation, for example.
        config: the quantile.

    Raises:
        ConfigError: fewer than ``MIN_REFERENCE`` user messages.
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
    """Returns a weight for each of the chatbot's messages, leaving without a word included: ``turn_weights``.

    Args:
        state: the conversation, ended.
        log_odds: [T + 1] of its T user messages.
        threshold: of ``fault_threshold``.
        config: the weight.

    Raises:
        ConfigError: log-odds of another number of user messages.
    """
    rewards = turn_rewards(log_odds)
    if len(rewards) != state.num_user_turns:
        raise ConfigError(
            f"conversation {state.context_id}: {len(rewards) + 1} log-odds for {state.num_user_turns} user messages; "
            "expected one more than messages"
        )
    weights: list[float] = []
    heard = 0
    for turn in state.turns:
        if turn.role == "user":
            if weights and rewards[heard] < threshold:
                weights[-1] = config.weight
            heard += 1
        else:
            weights.append(1.0)
    if state.end is not None and state.end.by == "chatbot" and state.end.said is not None:
        weights.append(1.0)
    return tuple(weights)
