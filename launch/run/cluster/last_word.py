"""Says on stderr that a driver has ended without a word, from a process of its own that reads its standard input.

    python last_word.py SENTENCE   # ends with the driver, which writes GOODBYE when it leaves

Ray ends a driver whose raylet has died at its next use of objects, and a machine without memory kills it. Uses only
the standard library, to start at once.
"""

from __future__ import annotations

import os
import sys

GOODBYE = b"goodbye"


def main(sentence: str) -> None:
    """Waits for the driver's end; says the sentence if the driver has not said goodbye."""
    if not sys.stdin.buffer.read().endswith(GOODBYE):
        sys.stderr.write(f"error {sentence}\n")


if __name__ == "__main__":
    if os.fork():  # Ray kills the children of a driver that it ends, so this is to be none
        os._exit(0)
    main(*sys.argv[1:])
