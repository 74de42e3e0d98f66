"""Real Ray clusters on this machine, as people start them: a head, and further raylets that join it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

RAY = str(Path(sys.executable).parent / "ray")
HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
NODE_PORTS = ("dashboard-agent-listen-port", "metrics-export-port")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Node:
    """One ``ray start --block``, with the processes that it started."""

    process: subprocess.Popen
    log: Path

    def raylet(self) -> psutil.Process | None:
        """Returns the process of its raylet."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return None
        return next((p for p in family if "raylet/raylet" in command_of(p)), None)

    def has(self, actor: str) -> bool:
        """Returns whether an actor of that name works there."""
        raylet = self.raylet()
        try:
            return raylet is not None and any(actor in command_of(p) for p in raylet.children(recursive=True))
        except psutil.NoSuchProcess:
            return False

    def stop(self) -> None:
        """Kills it and whatever it started."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@dataclass
class Cluster:
    """A head that asks for a token, and the nodes that joined it."""

    folder: Path
    ray_folder: Path
    environment: dict[str, str]
    """To reach it with; ``RAY_ADDRESS`` is its dashboard's."""
    address: str = ""
    """Where nodes join it."""
    nodes: list[Node] = field(default_factory=list)

    def start_head(self) -> Node:
        """Returns the head: two CPUs, eight logical GPUs and a place for the driver; it may have ended."""
        ports = dict(zip(HEAD_PORTS, free_ports(len(HEAD_PORTS)), strict=True))
        options = [f"--{name}={port}" for name, port in ports.items()]
        options += ["--head", "--num-gpus=8", '--resources={"driver": 1}']
        self.environment["RAY_ADDRESS"] = f"http://127.0.0.1:{ports['dashboard-port']}"
        self.address = f"127.0.0.1:{ports['port']}"
        return self._start("head", options)

    def join(self) -> Node:
        """Returns a further node of two CPUs, once it has joined."""
        node = self._start(f"node{len(self.nodes)}", [f"--address={self.address}"])
        assert node.process.poll() is None, node.log.read_text()
        return node

    def _start(self, name: str, options: list[str]) -> Node:
        ports = dict(zip(NODE_PORTS, free_ports(len(NODE_PORTS)), strict=True))
        options = [*options, *(f"--{name}={port}" for name, port in ports.items())]
        # As on machines of their own: in one folder, nodes unpack the job's code over each other.
        options += [f"--temp-dir={tempfile.mkdtemp(dir=self.ray_folder)}"]
        options += ["--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
        options += ["--min-worker-port=0", "--max-worker-port=0"]
        log = self.folder / f"{name}.log"
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        with open(log, "w") as stream:
            process = subprocess.Popen(
                [RAY, "start", *options], env=environment, stdout=stream, stderr=stream, start_new_session=True,
                cwd=self.folder,
            )  # fmt: skip
        node = Node(process, log)
        self.nodes.append(node)
        while process.poll() is None and "Ray runtime started" not in log.read_text():
            time.sleep(0.2)
        return node


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, ray_folder: Path) -> Iterator[Cluster]:
    """A cluster whose only node is its head."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WANDB_"))}
    environment |= {
        "HOME": str(folder), "RAY_AUTH_MODE": "token", "PATH": f"{Path(RAY).parent}:{environment['PATH']}",
        "PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0", "POLL_S": "1",
        "RAY_worker_niceness": "0",  # the tests wait for the workers
    }  # fmt: skip
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    cluster = Cluster(folder, ray_folder, environment)
    try:
        for _ in range(3):  # a busy machine can miss Ray's own 30 seconds
            node = cluster.start_head()
            if node.process.poll() is None:
                break
            node.stop()
        assert node.process.poll() is None, node.log.read_text()
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            node.stop()
