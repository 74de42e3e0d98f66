"""Reads the records of a file of any common kind as plain objects: JSON, JSON lines, CSV, Parquet, a saved data set.

The kind is found by content, and by name for CSV. Independent of what the records mean.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlenv.core.errors import Problem
from rlenv.core.files import BOM, describe, open_binary, parse_json, unreadable

PARQUET_MAGIC = b"PAR1"
MAX_CELL = 1 << 30
_BETWEEN = re.compile(r"[\s,]*")


def read_records(path: str | Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """Yields (place, value) of every record: an object, or a list where the file has lists.

    Args:
        path: a file, plain or gzipped, or the folder of a data set that ``datasets`` saved.
        problems: everything that cannot be read is appended.
    """
    path = Path(path)
    try:
        if path.is_dir():
            yield from _saved_data_set(path, problems)
        elif path.name.removesuffix(".gz").lower().endswith((".csv", ".tsv")):
            yield from _csv(path, problems)
        else:
            with open_binary(path) as file:
                magic = file.read(4)
            yield from _parquet(path, problems) if magic == PARQUET_MAGIC else _json(path, problems)
    except (OSError, EOFError, zlib.error) as error:
        problems.append(unreadable(path, error))
    except UnicodeDecodeError:
        problems.append(Problem(str(path), None, "", "UTF-8 text", "other bytes", "save it as UTF-8"))


def _json(path: Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """Yields the values of JSON lines, or of a file that is one JSON value or several one after another."""
    with open_binary(path) as file:
        first = b""
        while not first and (line := file.readline()):
            first = line.removeprefix(BOM).strip()
        if not first:
            problems.append(Problem(str(path), None, "", "at least one record", "an empty file"))
            return
        if _is_json(first):
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if raw := (line.removeprefix(BOM) if number == 1 else line).strip():
                    where = f"{path}:{number}"
                    value = parse_json(raw, where, problems)
                    if value is not None:
                        yield where, value
            return
        file.seek(0)
        raw = file.read().removeprefix(BOM)
    found: list[Problem] = []
    value = parse_json(raw, str(path), found)
    parts = _parts(raw) if found else []
    if len(parts) < 2:
        problems += found
        if value is not None:
            yield str(path), value
        return
    for number, part in enumerate(parts):
        value = parse_json(part, f"{path}[{number}]", problems)
        if value is not None:
            yield f"{path}[{number}]", value


def _parts(raw: bytes) -> list[bytes]:
    """Returns the JSON values that stand one after another, with or without commas; none if there is anything else."""
    decoder, parts, at = json.JSONDecoder(), [], 0
    try:
        text = raw.decode().strip()
        while at < len(text):
            _, end = decoder.raw_decode(text, at)
            parts.append(text[at:end].encode())
            at = _BETWEEN.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing, too
    except (ValueError, RecursionError):
        return []
    return parts


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line[:1] == b"{" and line[-1:] == b"}"  # a broken line among others
    return True


def _csv(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(MAX_CELL)
    with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        header = text.readline()
        text.seek(0)
        delimiter = max("\t" if ".tsv" in path.name else ",", ",", ";", "\t", key=header.count)
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    came = "too many cells" if None in row else "too few cells"
                    hint = "is there a stray quote or comma?"
                    problems.append(Problem(where, None, "", f"{len(reader.fieldnames or ())} cells", came, hint))
                else:
                    yield where, {name: cell for name, cell in row.items() if cell != ""}
        except csv.Error as error:
            problems.append(Problem(f"{path}:{reader.line_num}", None, "", "a line of CSV", f"another one ({error})"))


def _parquet(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"{path}[{number}]", row
                number += 1
    except pyarrow.ArrowInvalid:
        problems.append(Problem(str(path), None, "", "a complete Parquet file", "a broken or truncated one"))


def _saved_data_set(folder: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a folder of ``Dataset.save_to_disk``."""
    import pyarrow

    if (folder / "dataset_dict.json").is_file():
        splits = parse_json((folder / "dataset_dict.json").read_bytes(), f"{folder}/dataset_dict.json", problems)
        names = ", ".join(f"{folder}/{name}" for name in (splits or {}).get("splits", ()))
        problems.append(Problem(str(folder), None, "", "one data set", "several", f"give one of {names}"))
        return
    state_file = folder / "state.json"
    if not state_file.is_file():
        hint = "give a file, or a folder that datasets.save_to_disk made"
        problems.append(Problem(str(folder), None, "", "a data set saved to disk", "a folder without state.json", hint))
        return
    state = parse_json(state_file.read_bytes(), str(state_file), problems)
    files = state.get("_data_files") if isinstance(state, dict) else None
    given = [f.get("filename") if isinstance(f, dict) else None for f in files] if isinstance(files, list) else [None]
    arrow_files = [name for name in given if isinstance(name, str)]
    if len(arrow_files) < len(given):
        if state is not None:
            problems.append(Problem(str(state_file), None, "_data_files", "a list of files", describe(files)))
        return
    number = 0
    for name in arrow_files:
        file = folder / Path(name).name
        try:
            with pyarrow.memory_map(str(file)) as mapped, pyarrow.ipc.open_stream(mapped) as reader:
                for batch in reader:
                    for row in batch.to_pylist():
                        yield f"{folder}[{number}]", row
                        number += 1
        except pyarrow.ArrowInvalid:
            problems.append(Problem(str(file), None, "", "a complete Arrow file", "a broken or truncated one"))
