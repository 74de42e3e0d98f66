"""What a round of reinforcement learning leaves on disk: conversations whole, figures, seconds.

rounds/00012-DIGEST/conversations.jsonl.gz   every episode with its sampled tokens, rewards and provenance
rounds/00012-DIGEST/figures.json             of the users that are learnt from, and of held-out ones where measured
rounds/00012-DIGEST/seconds.json             what it took

The digest is the sampling adapter's. A learner that goes on from its last checkpoint finds the rounds that it had seen
already and learns from the very same conversations, also on hardware where equal seeds give unequal tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from launch.run.directory import PARTIAL
from rlenv.core.files import new_folder, read_records, to_line, write_atomic, write_text
from rlenv.core.types import Adapter, Record
from rlenv.env.collect import Collected
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, UserFigures

DIGITS = 12


class RoundSeconds(Record):
    """Wall time of a round's conversations."""

    rollouts: float
    measuring: float


class RoundFigures(Record):
    """What was seen of the adapter that held a round."""

    round: int
    adapter: str
    """Digest."""
    train: UserFigures
    held_out: dict[str, UserFigures] = Field(default_factory=dict)
    sampled_tokens: int
    """By the chatbot."""
    heard_tokens: int
    """Sampled by its users."""


class RoundRecords:
    """The rounds of one run.

    Args:
        root: their folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, number: int, adapter: Adapter) -> list[Collected] | None:
        """Returns the episodes of a round that this adapter held already; None where it did not."""
        folder = self._folder(number, adapter)
        return self.read_folder(folder) if folder.exists() else None

    @staticmethod
    def read_folder(folder: Path) -> list[Collected]:
        """Returns the episodes of a round's folder."""
        return read_records(folder / "conversations.jsonl.gz", Collected)

    def write(
        self,
        number: int,
        adapter: Adapter,
        results: Sequence[Collected],
        train: UserFigures,
        held_out: Mapping[str, UserFigures],
        seconds: RoundSeconds,
    ) -> None:
        """Writes a round whole or not at all; what another adapter held under its number is gone afterwards."""
        final = self._folder(number, adapter)
        own, others = _tokens(results, "assistant"), _tokens(results, "user")
        figures = RoundFigures(
            round=number,
            adapter=adapter.digest,
            train=train,
            held_out=dict(held_out),
            sampled_tokens=own,
            heard_tokens=others,
        )
        with new_folder(final, replace=True) as folder:
            write_atomic(folder / "conversations.jsonl.gz", (to_line(r.model_dump(mode="json")) for r in results))
            write_text(folder / "figures.json", figures.model_dump_json(indent=2) + "\n")
            write_text(folder / "seconds.json", seconds.model_dump_json() + "\n")
            for other in self.root.glob(f"{number:05d}-*"):
                shutil.rmtree(other)

    def folders(self) -> list[Path]:
        """Returns the folders of all rounds that are whole, in order."""
        return [folder for folder in sorted(self.root.glob("[0-9]*")) if not folder.name.endswith(PARTIAL)]

    def figures(self) -> list[tuple[RoundFigures, RoundSeconds]]:
        """Returns every round's figures, in order."""
        return [
            (
                RoundFigures.model_validate_json((folder / "figures.json").read_text()),
                RoundSeconds.model_validate_json((folder / "seconds.json").read_text()),
            )
            for folder in self.folders()
        ]

    def _folder(self, number: int, adapter: Adapter) -> Path:
        return self.root / f"{number:05d}-{adapter.digest[:DIGITS]}"


def write_episodes(path: Path, held: Sequence[EvaluationEpisode]) -> None:
    """Writes measured conversations, one a line."""
    write_atomic(path, (to_line(record.model_dump(mode="json")) for record in held))


def read_episodes(path: Path) -> list[EvaluationEpisode]:
    """Returns the measured conversations of a file."""
    return read_records(path, EvaluationEpisode)


def _tokens(results: Sequence[Collected], role: str) -> int:
    states = [result.state for result in results if result.state is not None]
    return sum(len(turn.utterance.token_ids) for state in states for turn in state.turns if turn.role == role)
