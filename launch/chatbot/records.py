"""Writes and reads the files of a round of reinforcement learning.

rounds/00012-DIGEST/conversations.jsonl.gz   every episode with its sampled tokens, rewards and provenance
rounds/00012-DIGEST/figures.json             figures with the training users, and with held-out ones where evaluated
rounds/00012-DIGEST/seconds.json             wall times

The digest is that of the sampling adapter. A learner that resumes from its last checkpoint finds the rounds that it has
already seen and trains on the same conversations, even on hardware where equal seeds give different tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from launch.run.directory import PARTIAL
from launch.run.manifest import write_manifest
from rlenv.core.files import new_folder, read_records, to_line, write_atomic, write_text
from rlenv.core.types import Adapter, Record
from rlenv.env.collect import Collected
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, UserFigures

DIGITS = 12


class RoundSeconds(Record):
    """Wall times of a round's conversations, in seconds."""

    rollouts: float
    measuring: float


class RoundFigures(Record):
    """Figures of the adapter that sampled a round."""

    round: int
    adapter: str
    """The adapter's digest."""
    train: UserFigures
    held_out: dict[str, UserFigures] = Field(default_factory=dict)
    sampled_tokens: int
    """Tokens sampled by the chatbot."""
    heard_tokens: int
    """Tokens sampled by its users."""


class RoundRecords:
    """The records of one run's rounds.

    Args:
        root: the folder of the rounds.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, number: int, adapter: Adapter) -> list[Collected] | None:
        """Returns the episodes of a round that this adapter has sampled; None where there are none."""
        folder = self._folder(number, adapter)
        return self.read_folder(folder) if folder.exists() else None

    @staticmethod
    def read_folder(folder: Path) -> list[Collected]:
        """Returns the episodes in a round's folder."""
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
        """Writes a round, whole or not at all, and deletes the same round of any other adapter."""
        final = self._folder(number, adapter)
        figures = RoundFigures(
            round=number,
            adapter=adapter.digest,
            train=train,
            held_out=dict(held_out),
            sampled_tokens=_tokens(results, "assistant"),
            heard_tokens=_tokens(results, "user"),
        )
        with new_folder(final, replace=True) as folder:
            write_atomic(folder / "conversations.jsonl.gz", (to_line(r.model_dump(mode="json")) for r in results))
            write_text(folder / "figures.json", figures.model_dump_json(indent=2) + "\n")
            write_text(folder / "seconds.json", seconds.model_dump_json() + "\n")
            write_manifest(folder)
            for other in self.root.glob(f"{number:05d}-*"):
                shutil.rmtree(other)

    def folders(self) -> list[Path]:
        """Returns the folders of all finished rounds, in order."""
        return [folder for folder in sorted(self.root.glob("[0-9]*")) if not folder.name.endswith(PARTIAL)]

    def figures(self) -> list[tuple[RoundFigures, RoundSeconds]]:
        """Returns the figures and wall times of every finished round, in order."""
        return [
            (
                RoundFigures.model_validate_json((folder / "figures.json").read_text()),
                RoundSeconds.model_validate_json((folder / "seconds.json").read_text()),
            )
            for folder in self.folders()
        ]

    def _folder(self, number: int, adapter: Adapter) -> Path:
        return self.root / f"{number:05d}-{adapter.digest[:DIGITS]}"


def write_episodes(path: Path, episodes: Sequence[EvaluationEpisode]) -> None:
    """Writes evaluation episodes, one per line."""
    write_atomic(path, (to_line(record.model_dump(mode="json")) for record in episodes))


def read_episodes(path: Path) -> list[EvaluationEpisode]:
    """Returns the evaluation episodes of a file."""
    return read_records(path, EvaluationEpisode)


def _tokens(results: Sequence[Collected], role: str) -> int:
    states = [result.state for result in results if result.state is not None]
    return sum(len(turn.utterance.token_ids) for state in states for turn in state.turns if turn.role == role)
