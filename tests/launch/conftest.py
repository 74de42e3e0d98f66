"""A tiny run of Algorithm 1, made once for all tests, and a driver in its own process that can be killed."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "name": "tiny",
    "num_iterations": 1,
    "backbone": "small-llama",
    "data": {
        "population": {"num_users": 50, "num_pretrain_users": 32},
        "sft_share": 0.3,
        "adversarial_share": 0.5,
        "evaluation_share": 0.2,
    },
    "context": {"budget_tokens": 200, "instruction": ""},
    "simulator": {"model": "small-llama", "sampling": {"max_tokens": 20}},
    "pretrain": {
        "hidden_size": 32,
        "num_heads": 2,
        "num_layers": 2,
        "vocab_size": 600,
        "intermediate_size": 64,
        "epochs": 1,
        "dtype": "float32",
        "batch_tokens": 2048,
        "save_every": 4,
    },
    "sft": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "dtype": "float32", "save_every": 2},
    "engines": {
        "simulator": {
            "model": "auto",
            "backend": "transformers",
            "dtype": "float32",
            "num_cpus": 0.5,
            "threads": 1,
            "max_model_len": 2048,
            "max_num_seqs": 32,
        }
    },
    "env": {"max_turns": 3},
    "collect": {"num_contexts": 16, "simulations_per_context": 1},
    "discriminator": {
        "num_train_sessions": 24,
        "num_validation_sessions": 8,
        "lora_rank": None,
        "learning_rate": 1e-2,
        "epochs": 3,
        "dtype": "float32",
        "max_tokens": 2048,
        "save_every": 1,
    },
    "preferences": {"num_alternatives": 8},
    "dpo": {"learning_rate": 1e-3, "batch_size": 2, "warmup": 0.0, "dtype": "float32", "save_every": 1},
    "train": {"num_workers": 1, "num_cpus": 0.5, "threads": 1, "keep_workers": True},
    "scoring": {"num_cpus": 0.5, "threads": 1},
    "ray": {"num_cpus": 2, "num_gpus": 0},
}
STUDY: dict[str, Any] = {
    "chatbots": ["steady", "echo", "scattered"],
    "treatments": {"echo-fixed": {"control": "echo", "habits": {"repeat": 0.0}}},
    "real_sessions_per_chatbot": 10,
    "simulated_sessions_per_chatbot": 3,
    "judge_sessions": 60,
    "sft_sizes": [4, 8],
    "size_sessions_per_chatbot": 2,
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns ``base`` with ``changes``; dictionaries are merged key by key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


@pytest.fixture(scope="session")
def write_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function that writes the tiny run's configuration with changes to a YAML file."""

    def write(**changes: Any) -> Path:
        path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
        path.write_text(yaml.safe_dump(merged(TINY, changes)))
        return path

    return write


@dataclass(frozen=True)
class TinyRun:
    """An undisturbed run of Algorithm 1, which is also the adversarial run of a study."""

    config: Path
    root: Path
    study: Path
    """The study's configuration; its directory is the parent of ``root``."""


@pytest.fixture(scope="session")
def tiny_run(write_config: Callable[..., Path], local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The finished tiny run. A test that changes its files restores them."""
    from launch.adversarial.algorithm import run_adversarial
    from launch.run.settings import load_config, to_dict
    from launch.study.config import adversarial_config, load_study

    study = tmp_path_factory.mktemp("tiny_study") / "study.yaml"
    run = yaml.safe_load(write_config().read_text())
    study.write_text(yaml.safe_dump({**STUDY, "out_dir": str(study.with_suffix("")), "run": run}))
    config = study.with_name("adversarial.yaml")
    config.write_text(yaml.safe_dump(to_dict(adversarial_config(load_study(study)))))
    return TinyRun(config, run_adversarial(load_config(config)).root, study)


@pytest.fixture(scope="session")
def finished_run(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory like that of a finished run of two iterations, with random, untrained models."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from launch.run.directory import RunDirectory
    from launch.run.settings import load_config, to_dict
    from rlenv.data.sessions import split_by_user, write_sessions
    from rlenv.discriminator.model import new_classifier, save_classifier
    from rlenv.discriminator.rows import DiscriminatorLayout
    from rlenv.population.corpus import generate_sessions

    run = RunDirectory(tmp_path_factory.mktemp("finished") / "run")
    run.root.mkdir()
    changes = {"num_iterations": 2, "simulator": {"model": str(tiny_llama)}, "scoring": {"num_cpus": 0.5}}
    settings = merged(TINY, changes)
    settings["engines"]["simulator"] |= {"num_cpus": 0.5, "max_model_len": 1024, "max_loras": 3}
    source = run.root / "source.yaml"
    source.write_text(yaml.safe_dump(settings))
    run.open(to_dict(load_config(source)))
    source.unlink()
    run.path("data").mkdir()
    shares = {"sft": 0.4, "adversarial": 0.4, "evaluation": 0.2}
    for split, sessions in split_by_user(generate_sessions(15, 1, 0), shares, 0).items():
        write_sessions(run.path(f"data/{split}.jsonl.gz"), sessions)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for version in ("base", "it1", "it2"):
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(run.path(f"{version}/adapter"))
        classifier = new_classifier(str(tiny_llama), "float32")
        torch.nn.init.normal_(classifier.score.weight, std=1.0)
        save_classifier(
            classifier,
            run.path(f"{version}/discriminator/main"),
            layout=DiscriminatorLayout(use_context=False),
            base_model=str(tiny_llama),
            dtype="float32",
            tokenizer=AutoTokenizer.from_pretrained(tiny_llama),
        )
    return run.root


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """A private folder with a short path for Ray's sessions, since paths of sockets have at most 107 characters."""
    folder = tempfile.mkdtemp(prefix="rl-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


class Driver:
    """``rlenv adversarial CONFIG``, or another command, in its own process session."""

    def __init__(self, config: Path, ray_folder: Path, command: str = "adversarial") -> None:
        environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "COLUMNS": "200", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from launch.cli.main import main; main()", command, str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            text=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def logged(self, text: str) -> bool:
        """Returns whether a line of the log contains ``text``."""
        return any(text in line for line in self.lines)

    def started(self) -> list[str]:
        """Returns the phases that were started according to the log, in order."""
        return [line.split()[-2].rstrip(":") for line in self.lines if line.rstrip().endswith(": started")]

    def wait_for(self, text: str) -> None:
        """Waits until a line of the log contains ``text``; fails if the driver ends first."""
        with self._news:
            while not self.logged(text):
                assert self._reader.is_alive(), "\n".join(["the driver ended without: " + text, *self.lines[-30:]])
                self._news.wait(1.0)

    def wait_until(self, holds: Callable[[Driver], bool]) -> None:
        """Waits until ``holds(driver)``; fails if the driver ends first."""
        while not holds(self):
            assert self.process.poll() is None, "\n".join(["the driver ended", *self.lines[-30:]])
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        """Returns the driver's child processes: Ray, actors, engines."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def has_process(self, name: str) -> bool:
        """Returns whether a child process has that name."""
        return any(name in _command(p) for p in self.family())

    def kill_one(self, name: str) -> None:
        """Kills the newest child process of that name."""
        found = [p for p in self.family() if name in _command(p)]
        assert found, f"no process is called {name}"
        newest = max(found, key=lambda p: p.create_time())
        newest.kill()
        psutil.wait_procs([newest], timeout=30)

    def kill(self) -> list[psutil.Process]:
        """Kills only the driver, with SIGKILL; returns its former child processes, most of which have ended.

        Ray's agents check for their raylet every few seconds, so some may still be running.
        """
        family = self.family()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        at_once = [p for p in family if "agent" not in _command(p).lower()]
        psutil.wait_procs(at_once, timeout=30)
        return family

    def wait(self) -> None:
        """Waits for the driver to end; fails unless it succeeded."""
        code = self.process.wait()
        self._reader.join(10)
        assert code == 0, "\n".join(self.lines[-40:])


def left_of(family: list[psutil.Process], wait_s: float = 120) -> list[str]:
    """Returns the commands of the processes that still run after ``wait_s``, and kills them."""
    _, alive = psutil.wait_procs(family, timeout=wait_s)
    left = [_command(process) for process in alive]
    for process in alive:
        process.kill()
    return left


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def start_driver(ray_folder: Path) -> Iterator[Callable[..., Driver]]:
    """Returns a function that starts drivers; those still running at the end of the test are killed."""
    drivers: list[Driver] = []

    def start(config: Path, command: str = "adversarial") -> Driver:
        drivers.append(Driver(config, ray_folder, command))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            left_of(driver.kill())


@pytest.fixture(scope="session")
def driver_class() -> type[Driver]:
    """``Driver``, for fixtures that outlive a test."""
    return Driver


@pytest.fixture(scope="session")
def still_running() -> Callable[[list[psutil.Process]], list[str]]:
    """Returns ``left_of``."""
    return left_of


CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yields a file as a page in a real browser; fails if its scripts raise or if it requests anything else."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("RLENV_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: install one, or set RLENV_CHROMIUM to its path")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=CHROMIUM)
        page = browser.new_page()
        errors: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert errors == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()


@pytest.fixture(scope="session")
def open_page() -> Callable[[Path], AbstractContextManager[Any]]:
    """Returns ``opened``."""
    return opened
