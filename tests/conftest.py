"""What several folders of tests share: the order they run in, one local Ray, and small models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two processes of two threads each on two cores spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray Train looks at its workers every two seconds, and a worker that reports a checkpoint waits for the look.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # Ray's own 30 s are few on a busy machine
# Actors with an environment of their own, as all of ours are, cannot use the processes that Ray starts in advance.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
ROOT = Path(__file__).parents[1]
SLOW = {"slow", "ray", "vllm"}
LONGEST = (
    "tests/launch/adversarial/test_flow.py",  # the first of the group "tiny run"
    "tests/launch/cli/test_submit.py",
    "tests/test_examples.py",  # the first of the group "smollm2"
    "tests/launch/chatbot/test_train_chatbot.py",
    "tests/launch/chatbot/test_rollout_host.py",
    "tests/actors/test_pool.py",
)
"""Files whose slow groups take minutes; they start first, the longest at once, so that all processes end together."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="run the long proofs too (marker exhaustive)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the long proofs out unless they are asked for; puts fast tests first, and groups tests by process.

    Under ``--dist loadgroup`` a group runs in one process, so that its fixtures are made once: the fast tests of a
    file, its slow tests, or what is marked ``xdist_group``.
    """
    if not config.getoption("exhaustive") and "exhaustive" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def is_slow(item: pytest.Item) -> bool:
        return any(mark.name in SLOW for mark in item.iter_markers())

    def place(item: pytest.Item) -> tuple[bool, int]:
        file = item.path.relative_to(ROOT).as_posix()
        first = is_slow(item) and file in LONGEST
        return is_slow(item), LONGEST.index(file) if first else len(LONGEST)

    items.sort(key=place)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            tier = "slow" if is_slow(item) else "fast"
            item.add_marker(pytest.mark.xdist_group(f"{tier} {item.path.relative_to(ROOT)}"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray of two CPUs for all tests of this process."""
    import ray

    folders = [str(ROOT), str(ROOT / "tests" / "trainers"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)  # for Ray's processes
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def tiny_shape():
    """The settings of a small Llama that trains in a second: one layer of width 32, 320 tokens, blocks of 128."""
    from trainers.pretrain.config import PretrainConfig

    return PretrainConfig(
        vocab_size=320,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_positions=256,
        block_tokens=128,
        batch_tokens=256,
        dtype="float32",
        save_every=0,
    )


@pytest.fixture(scope="session")
def tiny_llama(tiny_shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: two layers of width 32, random weights, a byte-level tokenizer with the ChatML template."""
    import torch

    from rlenv.prompting.chat_format import chat_format
    from trainers.pretrain.loop import new_llama, train_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = replace(tiny_shape, num_layers=2, max_positions=1024)
    tokenizer = train_tokenizer(["user assistant system a few plain words to learn merges from"], 320, 1024)
    folder = tmp_path_factory.mktemp("tiny_llama")
    new_llama(config, chat_format(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: the real SmolLM2-135M-Instruct, in bfloat16."""
    from importlib.util import find_spec

    from rlenv.models.named import PACKAGE, load_smollm2

    if find_spec(PACKAGE) is None:
        pytest.skip("SmolLM2 is not installed (see launch/install.sh)")
    return load_smollm2(tmp_path_factory.mktemp("models") / "smollm2-135m-instruct")
