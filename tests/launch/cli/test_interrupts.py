"""Ctrl-C ends a command with a sentence that says how to go on."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import launch.adversarial.algorithm
import launch.adversarial.table
from launch.cli.main import app


@pytest.fixture(autouse=True)
def interrupted(monkeypatch):
    """Whatever a command does ends with Ctrl-C."""

    def stop(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.adversarial.algorithm, "run_adversarial", stop)
    monkeypatch.setattr(launch.adversarial.table, "print_report", stop)


def test_a_command_that_can_go_on_says_so(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("{}")
    result = CliRunner().invoke(app, ["adversarial", str(config)])
    assert result.exit_code == 130 and "interrupted; run the same command again to go on" in result.output


def test_other_commands_say_that_they_were_interrupted(tmp_path):
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 130 and result.output.strip() == "interrupted"
