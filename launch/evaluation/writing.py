"""The directory that ``rlenv evaluate`` leaves: whole under its name, or not there.

metrics.json      every figure, keys sorted
tables/*.csv      one a table
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.evaluation.sheets import Sheet, to_csv
from launch.run_directory import PARTIAL, write_json, write_text
from rlenv.errors import ConfigError
from rlenv.evaluation.suite import Evaluation

METRICS = "metrics.json"


@contextmanager
def new_directory(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Gives a folder that becomes ``out`` when all of it is written; whatever interrupts leaves ``out`` as it was.

    Raises:
        ConfigError: ``out`` is there and ``overwrite`` is not given, or it is no evaluation of ours.
    """
    out = out.absolute()
    check_free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        old = out.with_name(out.name + ".old")
        os.rename(out, old)
        os.rename(partial, out)
        shutil.rmtree(old)
    else:
        os.rename(partial, out)


def check_free(out: Path, overwrite: bool = False) -> None:
    """Returns if ``out`` may be written.

    Raises:
        ConfigError: see ``new_directory``.
    """
    if not out.exists():
        return
    if not (out / METRICS).is_file():
        raise ConfigError(f"--out {out} is there and no evaluation; name another place")
    if not overwrite:
        raise ConfigError(f"--out {out} holds an evaluation; give --overwrite to replace it, or name another place")


def write_tables(folder: Path, evaluation: Evaluation, tables: list[Sheet]) -> None:
    """Writes ``metrics.json`` and the CSV files."""
    write_json(folder / METRICS, evaluation.model_dump(mode="json"))
    (folder / "tables").mkdir()
    for sheet in tables:
        write_text(folder / f"tables/{sheet.name}.csv", to_csv(sheet))
