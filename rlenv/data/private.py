"""Keeps files from other people of the machine: what holds conversations is made for its owner alone.

Folders are 0700 and files 0600. Who shares runs on purpose sets the environment variable ``RLENV_UMASK``, in octal as
for the shell's ``umask``: 027 lets the group read, 007 lets it write too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from rlenv.core.errors import ConfigError

VARIABLE = "RLENV_UMASK"
OWNER_ALONE = 0o077


def file_mask() -> int:
    """Returns the permissions that new files do not have.

    Raises:
        ConfigError: the variable has a value that is not octal, or that takes permissions from the owner.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        return OWNER_ALONE
    try:
        mask = int(given, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= OWNER_ALONE:
        raise ConfigError(
            f"the environment variable {VARIABLE} is {given!r}; expected octal digits as 077 (the owner alone), 027 "
            "(the group reads) or 007 (the group writes)"
        )
    return mask


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Makes the files of this process, and of those that it starts, private until the block ends."""
    before = os.umask(file_mask())
    try:
        yield
    finally:
        os.umask(before)


def make_private(folder: str | Path) -> None:
    """Takes the permissions of :func:`file_mask` from everything in a folder, and from the folder itself.

    For what other processes made, such as Ray's on another node. Files of other owners stay as they are.
    """
    mask = file_mask()
    for path in (Path(folder), *Path(folder).rglob("*")):
        with contextlib.suppress(OSError):  # gone meanwhile, or another's
            found = path.lstat().st_mode
            if not stat.S_ISLNK(found) and found & mask & 0o777:
                path.chmod(stat.S_IMODE(found) & ~mask)
