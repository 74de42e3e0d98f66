"""What a plan takes for granted, printed with it; ``--assume key=value`` changes a figure."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.errors import ConfigError
from rlenv.core.settings import Settings, read, settings


@settings
class Assumptions(Settings):
    """Figures that the configuration does not have."""

    sft_sessions: PositiveInt | None = None
    """Sessions that the base simulator is fine-tuned on, at most data.max_sft_sessions. None is the share of the
    reference population, and with data.path 160,000 as in the paper (4.1)."""
    context_tokens: NonNegativeInt | None = None
    """Tokens of a session's context on average; None is all of context.budget_tokens, an upper bound."""
    user_tokens: PositiveInt = 40
    """Tokens of a user's message."""
    chatbot_tokens: PositiveInt = 80
    """Tokens of a chatbot's message."""
    turns: PositiveInt = 10
    """User messages of a session, at most env.max_turns."""
    pairs_kept: float = Field(default=0.67, gt=0, le=1)
    """Share of the critical turns that give a kept pair; 469 of 696 in a run on ESConv."""
    training_efficiency: float = Field(default=0.35, gt=0, le=1)
    """Share of a GPU's peak operations that training reaches."""
    prefill_efficiency: float = Field(default=0.5, gt=0, le=1)
    """Share of the peak operations that an engine reaches on prompts, and scoring on sessions."""
    decode_efficiency: float = Field(default=0.5, gt=0, le=1)
    """Share of the peak memory bandwidth that an engine reaches while it samples."""
    start_s: NonNegativeFloat = 180.0
    """Seconds until the processes of a phase have loaded their models, while their GPUs are held."""
    usable_share: float = Field(default=0.95, gt=0, le=1)
    """Share of a GPU's memory that a plan may fill; the rest is lost to fragments."""
    runtime_gib: PositiveFloat = 1.5
    """GiB of each process on a GPU for the CUDA context, NCCL and workspaces."""


def assume(overrides: Sequence[str]) -> Assumptions:
    """Returns the assumptions with ``key=value`` overrides.

    Raises:
        ConfigError: an override has another form, an unknown key or a wrong value.
    """
    values = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--assume {override!r}: expected key=value, such as context_tokens=1000")
        values[key.strip()] = value.strip()
    return read(Assumptions, values, "--assume")
