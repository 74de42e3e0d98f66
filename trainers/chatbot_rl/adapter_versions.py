"""The adapters that a reinforcement-learning run writes for its samplers: a new folder each round, never overwritten.

A folder's name holds the round and the digest of what is in it, so that a run that is killed and begun again writes the
same names for the same weights, and an engine never finds other weights under a name that it knows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import PhaseError

DIGITS = 12
"""Of the digest, in a folder's name."""


class AdapterVersions:
    """The versions of one run, by round.

    Args:
        root: a folder that learner and samplers see.
        start_digest: of the adapter that training started from, which is round 0 too.
    """

    def __init__(self, root: Path, start_digest: str) -> None:
        self.root = root
        self.start_digest = start_digest

    def add(self, number: int, partial: Path) -> Path:
        """Returns the folder of round ``number``, made of the adapter in ``partial``, which is gone afterwards."""
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
            PhaseError: no version of this run.
        """
        if digest is None:
            raise PhaseError("a conversation was sampled without an adapter; sample with the one in the round's folder")
        found = [_number(folder) for folder in self.root.glob(f"round-*-{digest[:DIGITS]}")]
        if digest == self.start_digest:
            found.append(0)
        if not found:
            raise PhaseError(
                f"a conversation was sampled by adapter {digest[:DIGITS]}, which is no version of this run or one long "
                "gone; sample with the one in the round's folder"
            )
        return max(found)


def _number(folder: Path) -> int:
    return int(folder.name.split("-")[1])
