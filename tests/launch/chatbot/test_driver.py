"""The driver of a chatbot's training releases what it holds when a phase fails."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest
import yaml

from launch.chatbot import run as chatbot_run
from launch.chatbot.config import load_chatbot_config
from launch.chatbot.driver import train_chatbot
from launch.tracking.tracker import Tracker
from rlenv.core.errors import RlenvError


def test_a_training_whose_first_phase_fails_closes_its_tracker_and_its_directory(finished_run, tmp_path, monkeypatch):
    closed: list[Tracker] = []
    monkeypatch.setattr(Tracker, "close", lambda tracker: closed.append(tracker))
    monkeypatch.setattr(chatbot_run, "cluster", lambda _: nullcontext())  # nothing before the failure needs Ray
    path, source = tmp_path / "c.yaml", shutil.copytree(finished_run, tmp_path / "source")
    shutil.rmtree(source / "data")
    settings = {
        "run": str(source), "out_dir": str(tmp_path / "run"), "rewards": {"issue_free": 1}, "held_out": ["it1"],
        "chatbot": {"engine": "simulator", "adapter": "trained"},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(settings))
    config = load_chatbot_config(path)
    for _ in range(2):  # the second time shows that the directory's lock was released too
        with pytest.raises(RlenvError, match="the data are not split yet"):
            train_chatbot(config)
    assert len(closed) == 2
