"""No message of a run stands in an output that is not meant to hold messages, and every file of it is private.

The markers are all messages and contexts of the run: real, simulated and alternative ones. What is searched are
the files of the run, Ray's own logs of the whole test process, and what Weights & Biases would get.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from launch.adversarial.table import print_report
from launch.cli.status import status_of
from launch.run.directory import RunDirectory
from launch.tracking.config import TrackingConfig
from launch.tracking.tracker import Tracker, read_metrics
from rlenv.data.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("tiny run")]

MEANT = (
    r"data/(sft|adversarial|evaluation)\.jsonl\.gz",
    r"\w+/simulated/(sessions\.jsonl|conversations\.jsonl\.gz)",
    r"\w+/preferences/(pairs\.jsonl|alternatives\.jsonl\.gz)",
)
"""The files of a run that hold messages."""
SHORTEST = 16
"""Characters of a text that is looked for; shorter ones, as "yes", stand everywhere."""


def texts(value: object) -> Iterator[str]:
    """Yields the strings within a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in texts(inner))


def markers(root: Path) -> list[bytes]:
    """Returns the messages and contexts of a run, also as JSON writes them."""
    found: set[str] = set()
    files = [*root.glob("data/*.jsonl.gz"), *root.glob("*/simulated/sessions.jsonl")]
    for session in (s for path in files for s in read_sessions(path, neighbours="keep")):
        found |= {message.content for message in session.messages}
        found |= set(texts(session.context.model_dump(mode="json", exclude_defaults=True)))
    for path in root.glob("*/preferences/pairs.jsonl"):
        for line in path.read_text().splitlines():
            found |= {text for text in texts(json.loads(line)) if " " in text}
    long = {text for text in found if len(text) >= SHORTEST and " " in text}
    assert len(long) > 500
    return sorted({form.encode() for text in long for form in (text, json.dumps(text)[1:-1])})


def leaks(paths: Iterable[Path], root: Path, looked_for: list[bytes]) -> dict[str, int]:
    """Returns how many of the markers stand in each file that has any."""
    pattern = re.compile(b"|".join(map(re.escape, looked_for)))
    found = {}
    for path in paths:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        if number := len(pattern.findall(content)):
            found[str(path.relative_to(root))] = number
    return found


def files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="module")
def looked_for(tiny_run) -> list[bytes]:
    return markers(tiny_run.root)


def test_messages_of_a_run_stand_only_in_the_files_that_are_meant_for_them(tiny_run, looked_for):
    found = leaks(files(tiny_run.root), tiny_run.root, looked_for)
    meant = {name for name in found if any(re.fullmatch(pattern, name) for pattern in MEANT)}
    assert set(found) - meant == set()
    assert len(meant) >= 8  # the search finds what is there: three parts, two versions, pairs


def test_rays_logs_have_no_message(looked_for, local_ray):
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    logs = files(session / "logs")
    assert len(logs) > 5
    assert leaks(logs, session, looked_for) == {}


def test_weights_and_biases_gets_no_message(tiny_run, looked_for, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Path(shutil.copytree(tiny_run.root, tmp_path / "run"))
    settings = {"name": "marker"}
    with Tracker(run, TrackingConfig(wandb=True), "marker", settings) as tracker:
        for row in read_metrics(tiny_run.root / "metrics.jsonl"):
            numbers = {key: value for key, value in row.items() if key not in ("step", "version")}
            tracker.log(row["step"], row["version"], numbers, {"adapter": run / row["version"] / "adapter"})
        tracker.log_phases()
    sent = [*files(run / "wandb"), run / "wandb.json"]
    assert any(path.suffix == ".wandb" for path in sent)
    assert leaks(sent, run, looked_for) == {}


def test_the_terminal_and_the_log_show_no_message(tiny_run, looked_for, capsys, caplog):
    with caplog.at_level(logging.DEBUG):
        print_report(RunDirectory(tiny_run.root))
        shown = json.dumps(str(status_of(tiny_run.root)))
    shown += "".join(capsys.readouterr()) + caplog.text
    assert [text for text in looked_for if text.decode() in shown] == []


def test_every_file_of_a_run_is_its_owners_alone(tiny_run):
    paths = [tiny_run.root, *tiny_run.root.rglob("*")]
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert len(modes) > 40
