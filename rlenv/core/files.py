"""Reads and writes files: strict JSON lines with every problem by file and line, atomic files and folders.

Values are described without showing their content. Independent of sessions. Lone surrogates (half an emoji, as some
exports cut them) are preserved: JSON's ``\\ud83d`` escape can represent them, although UTF-8 cannot.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import math
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel

from rlenv.core.errors import DataError, PhaseError, Problem, RlenvError

RecordT = TypeVar("RecordT", bound=BaseModel)
T = TypeVar("T")
RESTORE = "restore it from a copy, or remove the folder of its phase and start the run again, which makes it anew"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of writing after which the user can make room."""
BOM = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_OTHER_KINDS = {
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save it as CSV"),
    b"BZh": ("a file packed by bzip2", "unpack it"),
    b"\xfd7zXZ": ("a file packed by xz", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a file packed by zstd", "unpack it"),
    b"\xff\xfe": ("text in UTF-16", "save it as UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "save it as UTF-8"),
}
"""First bytes of files that people have and we do not read, with what they are and the way out."""
_SHORT_NAME = re.compile(r"[A-Za-z][A-Za-z_-]{0,19}")


def read_objects(path: str | Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (``file:line``, object) for every valid line, and appends a problem for every other one.

    The file may be gzipped, which is detected by its content, not its name. A byte order mark, CRLF and blank lines are
    ignored. A file without lines is a problem.
    """
    num_lines = 0
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                raw = line.removeprefix(BOM).strip() if number == 1 else line.strip()
                if not raw:
                    continue
                num_lines += 1
                where = f"{path}:{number}"
                if raw in (b"[", b"{"):
                    hint = (
                        "write one session per line without line breaks, or convert the file with `rlenv import chat`"
                    )
                    problems.append(
                        Problem(where, None, "", "a whole JSON object on one line", "the start of one", hint)
                    )
                    return
                value = parse_json(raw, where, problems)
                if isinstance(value, dict):
                    yield where, value
                elif value is not None:
                    hint = "for a file with one list use `rlenv import chat`" if raw[:1] == b"[" else ""
                    problems.append(Problem(where, None, "", "a JSON object", describe(value), hint))
    except (OSError, EOFError, zlib.error) as error:
        problems.append(unreadable(path, error))
        return
    if not num_lines:
        problems.append(Problem(str(path), None, "", "at least one line", "an empty file", "check how it was made"))


def parse_json(raw: bytes, where: str, problems: list[Problem]) -> Any:
    """Returns the value of strict JSON text, or None after appending a problem; ``null`` is a problem, too.

    Strict means: UTF-8, no NaN or Infinity, no number outside the range of a double, no duplicate keys in an object.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_twice
        )
    except UnicodeDecodeError as error:
        actual, hint = f"the byte 0x{raw[error.start]:02x} at column {error.start + 1}", "save the file as UTF-8"
        problems.append(Problem(where, None, "", "UTF-8 text", actual, hint))
    except json.JSONDecodeError as error:
        lines = b"\n" in raw
        at = f"line {error.lineno}, column {error.colno}" if lines else f"column {error.colno} of {len(raw)} bytes"
        hint = "is the file cut off, or a comma missing or too many?" if lines else "is the line cut off or split?"
        actual = f"broken JSON at {at} ({error.msg.split(':')[0]})"
        problems.append(Problem(where, None, "", "one JSON object", actual, hint))
    except _NotStrictError as error:
        problems.append(Problem(where, None, "", *error.args))
    except (ValueError, RecursionError):
        problems.append(Problem(where, None, "", "JSON of ordinary size", "a number or a nesting that is too large"))
    else:
        if value is None:
            problems.append(Problem(where, None, "", "a JSON object", "null"))
        return value
    return None


class _OtherKindError(OSError):
    """(what the file is, the way out)"""


def open_binary(path: str | Path) -> BinaryIO:
    """Returns the file opened for reading, decompressed if its first bytes are those of gzip.

    Raises:
        OSError: it cannot be opened, or is of another kind (``unreadable`` says which).
    """
    file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    first = file.peek(8)[:8]
    for magic, kind in _OTHER_KINDS.items():
        if first.startswith(magic):
            file.close()
            raise _OtherKindError(*kind)
    return gzip.GzipFile(fileobj=file) if first[:2] == _GZIP_MAGIC else file  # type: ignore[return-value]


def unreadable(path: str | Path, error: Exception) -> Problem:
    """Returns the problem of a file that cannot be opened or fully decompressed."""
    if isinstance(error, _OtherKindError):
        return Problem(str(path), None, "", "a plain or gzipped file in UTF-8", *error.args)
    if isinstance(error, FileNotFoundError):
        return Problem(str(path), None, "", "a file", "no file with this name", "check the path")
    if isinstance(error, OSError) and error.errno is not None:
        return Problem(str(path), None, "", "a readable file", (error.strerror or "an error").lower())
    return Problem(str(path), None, "", "a complete gzip file", "a broken or truncated one", "copy or create it again")


def read_records(path: str | Path, kind: type[RecordT]) -> list[RecordT]:
    """Returns the records of a file that rlenv itself wrote, one per line, plain or gzipped.

    Raises:
        DataError: the file is missing or damaged. For users' files, use ``read_objects``.
    """

    def read(line: bytes) -> RecordT:
        if b"\\ud" in line:  # half an emoji, which pydantic's own parser of JSON refuses
            return kind.model_validate(json.loads(line))
        return kind.model_validate_json(line)

    return _read_own(path, read)


def read_json_lines(path: str | Path, is_right: Callable[[dict[str, Any]], bool] = bool) -> list[dict[str, Any]]:
    """Returns the objects of a file that rlenv itself wrote, one per line; raises as ``read_records``.

    Args:
        path: the file.
        is_right: whether an object has the fields that every line has; may raise ``KeyError``.
    """
    return _read_own(path, lambda line: _object(line, is_right))


def read_json(path: str | Path, is_right: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """Returns the object of a JSON file that rlenv itself wrote; arguments and errors as in ``read_json_lines``."""
    try:
        return _object(Path(path).read_bytes(), is_right)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError([damaged(path, error)]) from None


def _read_own(path: str | Path, read: Callable[[bytes], T]) -> list[T]:
    rows: list[T] = []
    where = str(path)
    try:
        with open_binary(path) as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                if line.strip():
                    rows.append(read(line))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError([damaged(path, error, where if isinstance(error, ValueError) else "")]) from None
    return rows


def _object(text: bytes, is_right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    value = json.loads(text)
    try:
        if not isinstance(value, dict) or not is_right(value):
            raise ValueError("another object")
    except (KeyError, TypeError, AttributeError):
        raise ValueError("another object") from None
    return value


def are_numbers(*values: Any) -> bool:
    """Returns whether all values are numbers, which true and false are not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def damaged(path: str | Path, error: Exception, where: str = "") -> Problem:
    """Returns the problem of a file that rlenv wrote and cannot read any more."""
    if isinstance(error, OSError | EOFError | zlib.error):
        came = unreadable(path, error).came
    else:
        came = "a broken or truncated one"
    return Problem(where or str(path), None, "", "a file as rlenv wrote it", came, RESTORE)


def to_line(value: Any) -> bytes:
    """Returns one line of JSON in UTF-8; only lone surrogates are escaped, as ``\\udXXX``.

    >>> to_line({"text": "half \\ud83d"}) == b'{"text": "half \\\\ud83d"}\\n'
    True
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def write_atomic(path: str | Path, chunks: Iterable[bytes]) -> None:
    """Writes a file completely or not at all: to a temporary file, fsync, rename; gzipped if the name ends in .gz.

    Equal chunks give equal bytes (no time stamp in the gzip header). On any error, the old file is kept.
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
        way_out = "; make room and try again" if error.errno in NO_ROOM else ""
        raise RlenvError(f"{path}: cannot be written: {(error.strerror or 'an error').lower()}{way_out}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def describe(value: Any) -> str:
    """Returns a value's type and size, without its content.

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
    """Returns a value in quotes if it is one short word, such as a name, else its description.

    >>> short_name("system"), short_name("I feel low")
    ("'system'", 'text of 10 characters')
    """
    return repr(value) if isinstance(value, str) and _SHORT_NAME.fullmatch(value) else describe(value)


class _NotStrictError(Exception):
    """(expected, actual, hint) for JSON that Python accepts and other parsers reject."""


def _no_constant(name: str) -> None:
    raise _NotStrictError("a number or null", name, f"JSON has no {name}; write null")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotStrictError("a number in the range of a double", "a larger one", "write it as text")
    return value


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _NotStrictError("each field once in an object", f"{short_name(twice)} twice", "remove one of them")
    return value


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not supported by all file systems
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def new_folder(out_dir: str | Path, *, replace: bool = False, partial: str | None = None) -> Iterator[Path]:
    """Yields a folder to write to, which becomes ``out_dir`` on success: complete and on disk, or not at all.

    On any error, an existing ``out_dir`` is kept.

    Args:
        out_dir: the folder's final path.
        replace: replace an existing ``out_dir``, which is renamed to ``.NAME.old`` for a moment.
        partial: name of the folder beside ``out_dir`` that is written to; None means ``.NAME.partial``. If an
            interrupted call left one, it is removed.

    Raises:
        PhaseError: ``out_dir`` exists and ``replace`` is False.
    """
    final = Path(out_dir).resolve()
    if final.exists() and not replace:
        raise PhaseError(f"{final} exists already and is never overwritten; remove it or choose another folder")
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
    """Writes a text file completely or not at all."""
    write_atomic(path, [text.encode()])


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file with sorted keys, completely or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, sort_keys=True) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and value != value else value
