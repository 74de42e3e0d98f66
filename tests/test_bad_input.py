"""Damaged input of every kind is accepted as it is or refused with a message, without traceback or a person's words."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

import launch.cli.main
from rlenv.core.errors import ConfigError
from tests import bad_input
from tests.bad_input import KINDS, outcomes, unfit

ROOT = Path(__file__).parents[1]
CASES = {kind: 12 if kind == "run directory" else 37 for kind in KINDS}
"""About 300 in all. A run's files have many readers, which are slow."""


def faults(kind: str, cases: int, seed: int, folder: Path) -> list[str]:
    found = list(outcomes(kind, cases, seed, folder))
    assert {"accepted", "refused"} <= {outcome.result for outcome in found}  # the damage is neither nothing nor all
    return [f"{o.number} {o.mutation}: {o.told}" for o in found if o.result == "FAULT"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_accepted_as_it_is_or_refused_with_a_message(kind, tmp_path):
    assert faults(kind, CASES[kind], 0, tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_input_of_every_kind_is_accepted_before_it_is_damaged(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(bad_input, "in_values", lambda value, rng: ("untouched", value))
    monkeypatch.setattr(bad_input, "in_bytes", lambda data, rng: ("untouched", data))
    found = [o for o in outcomes(kind, 4, 0, tmp_path) if o.mutation.endswith("untouched")]
    assert found and [o.told for o in found if o.result != "accepted"] == []


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_damaged_input_is_accepted_as_it_is_or_refused_with_a_message(kind, tmp_path):
    assert faults(kind, 1000, 1, tmp_path) == []


@pytest.mark.parametrize(
    ("told", "is_unfit"),
    [
        ("{path}: sft.epochs: expected a whole number, got text of 3 characters", False),
        ("sft.epochs: expected a whole number", True),  # in which file?
        ("{path}: expected a whole number", True),  # of which key?
        ("{path}: sft.epochs: Input should be a valid integer", True),
        ("{path}: sft.epochs: expected a whole number, got zanzibar", True),
        ("{path}: sft.epochs: expected a whole number, got " + "9" * 900, True),
        ("", True),
    ],
)
def test_a_message_that_helps_nobody_is_a_fault(told, is_unfit, tmp_path):
    made = KINDS["config"](tmp_path)
    assert unfit(made, "sft.epochs replaced", told.format(path=made.path)) is is_unfit


def test_equal_seeds_give_equal_cases(tmp_path):
    one, other = (list(outcomes("judge replies", 9, 3, tmp_path)) for _ in range(2))
    assert one == other


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("key: expected 1, got 2"), "key: expected 1, got 2"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "runs/a: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "no space left on device; make room and run"),
        (KeyError("i feel low"), "KeyError in test_bad_input.py"),
    ],
)
def test_no_traceback_reaches_a_user_unless_asked_for(error, told, monkeypatch, capsys):
    def command(arguments: list[str]) -> None:
        assert arguments == ["table", "x"]
        raise error

    monkeypatch.setattr(launch.cli.main, "app", command)
    for arguments, shown in (
        (["table", "x"], False),
        (["table", "x", "--debug"], True),
        (["--debug", "table", "x"], True),
    ):
        monkeypatch.setattr(sys, "argv", ["rlenv", *arguments])
        with pytest.raises(SystemExit) as ended:
            launch.cli.main.main()
        out = capsys.readouterr().err
        assert ended.value.code == 1 and told in " ".join(out.split())
        assert ("Traceback" in out) is shown and ("feel low" in out) is (shown and isinstance(error, KeyError))


def test_the_command_line_itself_shows_a_traceback_only_with_debug(tmp_path):
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch", "status", str(tmp_path), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    plain, debug = run(), run("--debug")
    assert plain.returncode == debug.returncode == 1
    assert "not a run directory" in plain.stderr and "Traceback" not in plain.stderr
    assert "not a run directory" in debug.stderr and "Traceback" in debug.stderr
