"""The settings of supervised fine-tuning (Eq. 1), and the records of its input and result."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, PositiveInt

from rlenv.core.settings import settings
from rlenv.core.types import Adapter, Message, Record, Seat
from trainers.backend.config import AdapterTraining


class SftExample(Record):
    """One session from which a seat is learnt."""

    session_id: str
    system: str
    """The complete system text: instructions and context c."""
    messages: tuple[Message, ...]
    seat: Seat = "user"


@settings
class SftConfig(AdapterTraining):
    """Supervised fine-tuning. Defaults are Table 6's."""

    lora_rank: PositiveInt = 8
    lora_alpha: PositiveInt = 16
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: PositiveInt | None = None
    """A longer session is cut after a whole message; None uses the model's number of positions."""


@dataclass(frozen=True)
class SftResult:
    """The adapter and its training figures."""

    adapter: Adapter
    num_sessions: int
    num_left_out: int
    """Sessions in which no token of the trained seat fits ``max_tokens``."""
    num_trained_tokens: int
    loss_first: float
    loss_last: float
    """Mean over the last tenth of the steps."""
