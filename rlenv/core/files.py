"""Strict JSON lines: bytes to objects and back, with every flaw told by file and line.

It knows JSON, gzip and files, and how to speak of a value without showing it; it knows nothing of sessions.
Lone surrogates (half an emoji, as some exports cut them) are kept as they came: JSON's ``\\ud83d`` escape holds them
both ways, although UTF-8 cannot.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel

from rlenv.core.errors import PhaseError, Problem, RlenvError

RecordT = TypeVar("RecordT", bound=BaseModel)
_BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_SHORT_NAME = re.compile(r"[A-Za-z][A-Za-z_-]{0,19}")


def read_objects(path: str | Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (``file:line``, object) of every good line, and appends a problem for every other one.

    Plain or gzipped (told by the bytes, not the name); a byte order mark, CRLF and blank lines are passed over.
    A file without any object is a problem.
    """
    num_lines = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                raw = line.removeprefix(_BOM).strip() if number == 1 else line.strip()
                if not raw:
                    continue
                num_lines += 1
                where = f"{path}:{number}"
                if raw in (b"[", b"{"):
                    hint = "write one session a line without line breaks, or bring the file in with `rlenv import`"
                    problems.append(
                        Problem(where, None, "", "a whole JSON object on one line", "the start of one", hint)
                    )
                    return
                value = parse_json(raw, where, problems)
                if isinstance(value, dict):
                    yield where, value
                elif value is not None:
                    hint = "one object a line; a file that is one list needs `rlenv import`" if raw[:1] == b"[" else ""
                    problems.append(Problem(where, None, "", "a JSON object", describe(value), hint))
    except (OSError, EOFError, zlib.error) as error:
        problems.append(unreadable(path, error))
        return
    if not num_lines:
        problems.append(Problem(str(path), None, "", "at least one line", "an empty file", "check how it was made"))


def parse_json(raw: bytes, where: str, problems: list[Problem]) -> Any:
    """Returns the value of strict JSON text, or None after appending a problem (``null`` too is one).

    Strict: UTF-8, no NaN or Infinity, no number beyond a double, no key twice in one object.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_twice
        )
    except UnicodeDecodeError as error:
        came, hint = f"the byte 0x{raw[error.start]:02x} at column {error.start + 1}", "save the file as UTF-8"
        problems.append(Problem(where, None, "", "UTF-8 text", came, hint))
    except json.JSONDecodeError as error:
        came = f"broken JSON at column {error.colno} of {len(raw)} bytes ({error.msg.split(':')[0]})"
        problems.append(Problem(where, None, "", "one JSON object", came, "is the line cut off or split?"))
    except _NotStrictError as error:
        problems.append(Problem(where, None, "", *error.args))
    except (ValueError, RecursionError):
        problems.append(Problem(where, None, "", "JSON of ordinary size", "a number or a nesting that is too large"))
    else:
        if value is None:
            problems.append(Problem(where, None, "", "a JSON object", "null"))
        return value
    return None


def open_binary(path: str | Path) -> BinaryIO:
    """Returns the file opened for reading, unzipped on the way where its first bytes say gzip."""
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    zipped = file.peek(2)[:2] == _GZIP_MAGIC
    return gzip.GzipFile(fileobj=file) if zipped else file  # type: ignore[return-value]


def unreadable(path: str | Path, error: Exception) -> Problem:
    """Returns the problem of a file that cannot be opened or unzipped to its end."""
    if isinstance(error, FileNotFoundError):
        return Problem(str(path), None, "", "a file", "nothing of this name", "check the path")
    if isinstance(error, OSError) and error.errno is not None:
        return Problem(str(path), None, "", "a readable file", (error.strerror or "an error").lower())
    return Problem(str(path), None, "", "a whole gzip file", "a broken or cut one", "copy or make the file anew")


def read_records(path: str | Path, kind: type[RecordT]) -> list[RecordT]:
    """Returns the records of a file that rlenv wrote itself, one a line, plain or gzipped.

    Raises:
        pydantic.ValidationError: a line that is no such record; files of people's go through ``read_objects``.
    """
    with open_binary(path) as file:
        return [kind.model_validate_json(line) for line in file if line.strip()]


def to_line(value: Any) -> bytes:
    """Returns one line of JSON in UTF-8, characters as they are, lone surrogates as ``\\udXXX``.

    >>> to_line({"text": "half \\ud83d"}) == b'{"text": "half \\\\ud83d"}\\n'
    True
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def write_atomic(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Writes a file whole or not at all: a neighbour first, fsync, then rename; gzipped if the name ends in .gz.

    Equal chunks give equal bytes (no time stamp in the gzip header). Whatever goes wrong, the old file stays.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as zipped:
                    zipped.writelines(chunks)
            else:
                file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise RlenvError(f"{path}: cannot be written: {(error.strerror or 'an error').lower()}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def describe(value: Any) -> str:
    """Returns what a value is without showing it: its type and size.

    >>> describe("I feel low"), describe([1, 2]), describe(None), describe(3)
    ('text of 10 characters', 'a list of 2', 'null', 'a number')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else f"an object of {len(value)} fields"


def short_name(value: Any) -> str:
    """Returns a value in quotes if it can only be a name (one short word), else its description.

    >>> short_name("system"), short_name("I feel low")
    ("'system'", 'text of 10 characters')
    """
    return repr(value) if isinstance(value, str) and _SHORT_NAME.fullmatch(value) else describe(value)


class _NotStrictError(Exception):
    """(expected, came, hint) of JSON that Python would take and others would not."""


def _no_constant(name: str) -> None:
    raise _NotStrictError("a number or null", name, f"JSON has no {name}; write null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotStrictError("a number that a double holds", "a greater one", "write it as text")
    return value


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _NotStrictError("each field once in an object", f"{short_name(twice)} twice", "remove one of them")
    return value


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def new_folder(out_dir: str | Path, *, replace: bool = False, partial: str | None = None) -> Iterator[Path]:
    """Gives a folder to write to that becomes ``out_dir`` on success: whole and on disk, or not there at all.

    Whatever goes wrong, what was at ``out_dir`` before stays.

    Args:
        out_dir: the folder's final path.
        replace: an ``out_dir`` that exists gives way to the new folder, and is ``.NAME.old`` for a moment.
        partial: name of the folder beside ``out_dir`` that is written to; None is ``.NAME.partial``. One that an
            interrupted call left there is removed.

    Raises:
        PhaseError: ``out_dir`` exists and is not to be replaced.
    """
    final = Path(out_dir).resolve()
    if final.exists() and not replace:
        raise PhaseError(f"{final} exists already and is never overwritten: remove it or name another")
    folder = final.with_name(partial or f".{final.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        _sync_tree(folder)
        if replace and final.exists():
            _swap(folder, final)
        else:
            folder.rename(final)
        _sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _swap(folder: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
    folder.rename(final)
    shutil.rmtree(old)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        elif path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_atomic(path, [text.encode()])


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, sort_keys=True) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value
