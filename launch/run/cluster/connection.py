"""The Ray cluster of a driver: connected to, or started here; what ends with it is told."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import ObjectLostError, RayActorError, RaySystemError

from launch.run.cluster import last_word
from launch.run.config.run import RayConfig
from rlenv.core.errors import ConfigError, PhaseError

log = logging.getLogger(__name__)
STARTS = 3
CONNECT_TIMEOUT_S = 5.0
ON = "what is finished is kept: run the same command again to go on"
ENDED = f"this process was killed, or Ray ended it since the raylet of this machine has died (out of memory?); {ON}"
LOST = f"Ray has lost what the run needs ({{}}): a process was killed, or a machine's raylet has died; {ON}"


def cluster_size() -> tuple[float, float]:
    """Returns the numbers of CPUs and GPUs of the cluster."""
    total = ray.cluster_resources()
    return total.get("CPU", 0), total.get("GPU", 0)


@contextmanager
def cluster(config: RayConfig) -> Iterator[None]:
    """Connects to the configured Ray cluster, or starts one that ends with the block.

    Raises:
        ConfigError: there is no cluster at the configured address.
        PhaseError: Ray did not start, or has lost an actor or an object that the block needs.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if config.address:
        where, address = f"ray.address={config.address}", config.address
    else:
        address = os.environ.get("RAY_ADDRESS", "").strip()
        where = f"RAY_ADDRESS={address}"
    with _last_word():
        if address and address != "local":
            connect(address, where)
        else:
            _start_ray(config)
        try:
            yield
        except (RayActorError, ObjectLostError, RaySystemError) as error:
            raise PhaseError(LOST.format(type(error).__name__)) from error
        finally:
            ray.shutdown()  # within the last word: without a raylet Ray may end this process here, too


@contextmanager
def _last_word() -> Iterator[None]:
    """Has it told if this process ends within the block without a word (``last_word``)."""
    command = [sys.executable, "-S", "-E", last_word.__file__, ENDED]
    # In a session of its own, Ctrl-C in a terminal does not end it.
    teller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    teller.wait()  # it goes on in a process of its own
    assert teller.stdin is not None
    try:
        yield
    finally:
        with suppress(BrokenPipeError), teller.stdin as stdin:
            stdin.write(last_word.GOODBYE)


def connect(address: str, where: str) -> None:
    """Connects this process to a running Ray cluster. Ray itself waits for minutes where none answers.

    Args:
        address: ``host:port`` of its head, "auto" or ``ray://host:port``.
        where: the setting or variable with the address, for errors.

    Raises:
        ConfigError: no cluster answers there.
    """
    way_out = "unset it to start a cluster here, or give host:port of a running cluster's head, as host:6379"
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{where}: this is the address of a dashboard, to which jobs are submitted, and not of a cluster; {way_out}"
        )
    try:
        client = address.startswith("ray://")
        place = address.removeprefix("ray://") if client else canonicalize_bootstrap_address(address)
        host, _, port = str(place).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (ValueError, OSError, RuntimeError) as error:  # no address, or nobody there
        raise ConfigError(f"{where}: no Ray cluster answers there ({type(error).__name__}); {way_out}") from None
    try:
        _init_ray(address=address)
    except Exception as error:  # Ray raises many kinds
        ray.shutdown()
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ConfigError(f"{where}: what answers there is no Ray cluster to use ({reason}); {way_out}") from error


def _init_ray(**options: Any) -> None:
    """Starts Ray, or connects to it, and leaves SIGTERM to this process: Ray's own handler aborts it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_ray(config: RayConfig) -> None:
    """Starts Ray in this process; tries again where a busy machine misses Ray's own limit of 30 seconds."""
    for attempt in range(1, STARTS + 1):
        try:
            _init_ray(
                address="local",  # never join a cluster that another process left on this machine
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                include_dashboard=False,
            )
            return
        except Exception as error:  # Ray raises Exception itself
            ray.shutdown()
            if "timed out" not in str(error) or attempt == STARTS:
                raise PhaseError(f"Ray did not start: {error}; run the same command again") from error
            log.warning("Ray did not start in time; trying again")
