"""``rlenv taxonomy``, ``annotate`` and ``agreement`` as people run them."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from launch import annotate_commands
from rlenv.taxonomy import load_taxonomy


def rlenv(*args):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    annotate_commands.register(app)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_taxonomy_is_copied_edited_and_shown(tmp_path):
    own = tmp_path / "own.yaml"
    assert rlenv("taxonomy", "--copy-to", own)[0] == 0
    assert load_taxonomy(own) == load_taxonomy()
    own.write_text(own.read_text().replace("\n  app_bug:\n", "\n  app_bug:\n    crash: [Crash, It crashes.]\n"))
    code, out, _ = rlenv("taxonomy", own)
    assert code == 0 and "App Bugs" in out and "It crashes." in out
    code, _, err = rlenv("taxonomy", "--copy-to", own)
    assert (code, "a file already" in err) == (1, True)
    own.write_text(own.read_text().replace("app_bug", "bugs"))
    code, _, err = rlenv("taxonomy", own)
    assert code == 1 and "own.yaml" in err and "'user_distress'" in err
