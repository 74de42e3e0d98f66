"""The settings of supervised fine-tuning (Eq. 1), and the records that go in and come out."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, PositiveInt

from rlenv.core.settings import settings
from rlenv.core.types import Adapter, Message, Record, Seat
from trainers.backend.config import AdapterTraining


class SftExample(Record):
    """One session to learn a seat from."""

    session_id: str
    system: str
    """The built system text: instructions and context c."""
    messages: tuple[Message, ...]
    seat: Seat = "user"


@settings
class SftConfig(AdapterTraining):
    """Supervised fine-tuning. Defaults are Table 6's."""

    lora_rank: PositiveInt = 8
    lora_alpha: PositiveInt = 16
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: PositiveInt | None = None
    """A longer session is cut after a whole message; None is the model's positions."""


@dataclass(frozen=True)
class SftResult:
    """The adapter and how its training went."""

    adapter: Adapter
    num_sessions: int
    num_left_out: int
    """Sessions of which not one own token fits ``max_tokens``."""
    num_trained_tokens: int
    loss_first: float
    loss_last: float
    """Mean of the last tenth of the steps."""
