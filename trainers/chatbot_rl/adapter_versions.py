"""The adapter versions that a reinforcement-learning run writes for its samplers: one folder per round.

A folder is never overwritten. Its name has the round's number and the digest of its contents, so a run that is killed
and resumed writes the same names for the same weights, and an engine never finds other weights under a known name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import PhaseError

DIGITS = 12
"""Digits of the digest in a folder's name."""


class AdapterVersions:
    """The adapter versions of one run, by round.

    Args:
        root: a folder visible to the learner and the samplers.
        start_digest: digest of the adapter that training started from; it counts as round 0.
    """

    def __init__(self, root: Path, start_digest: str) -> None:
        self.root = root
        self.start_digest = start_digest

    def add(self, number: int, partial: Path) -> Path:
        """Returns the folder of round ``number``, to which the adapter in ``partial`` has been moved."""
        digest = adapter_at(partial, "partial").digest
        folder = self.root / f"round-{number:05d}-{digest[:DIGITS]}"
        if folder.exists():
            shutil.rmtree(partial)
        else:
            partial.rename(folder)
        return folder

    def forget_before(self, number: int) -> None:
        """Removes the folders of rounds before ``number``."""
        for folder in self.root.glob("round-*"):
            if _number(folder) < number:
                shutil.rmtree(folder)

    def number_of(self, digest: str | None) -> int:
        """Returns the latest round whose adapter has this digest.

        Raises:
            PhaseError: it is not the digest of a version of this run.
        """
        if digest is None:
            raise PhaseError("a conversation was sampled without an adapter; sample with the round's adapter folder")
        found = [_number(folder) for folder in self.root.glob(f"round-*-{digest[:DIGITS]}")]
        if digest == self.start_digest:
            found.append(0)
        if not found:
            raise PhaseError(
                f"a conversation was sampled by adapter {digest[:DIGITS]}, which is not a version of this run or was "
                "removed rounds ago; sample with the round's adapter folder"
            )
        return max(found)


def _number(folder: Path) -> int:
    return int(folder.name.split("-")[1])
