"""An address at which there is no Ray cluster is told in one sentence, soon."""

from __future__ import annotations

import socket
import time

import pytest
import ray

from launch.run.cluster.connection import cluster
from launch.run.config.run import RayConfig
from rlenv.core.errors import ConfigError


@pytest.fixture(autouse=True)
def unconnected():
    """Another test of this process may have left Ray running."""
    if ray.is_initialized():
        pytest.skip("Ray is running in this process")


def refused(config: RayConfig = RayConfig()) -> str:
    began = time.monotonic()
    with pytest.raises(ConfigError) as error, cluster(config):
        pass
    assert time.monotonic() - began < 15 and "\n" not in str(error.value) and not ray.is_initialized()
    return str(error.value)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_address_of_a_dashboard_is_told_apart(monkeypatch, port):
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{port}")
    told = refused()
    assert told.startswith(f"RAY_ADDRESS=http://127.0.0.1:{port}: this is the address of a dashboard")
    assert "give host:port of a running cluster's head" in told


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1", "no such host", "127.0.0.1:x"])
def test_a_cluster_that_is_gone_is_told_with_the_variable(monkeypatch, port, address):
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    assert refused().startswith(f"RAY_ADDRESS={address.format(port)}: no Ray cluster answers there")


def test_a_setting_is_told_by_its_key(monkeypatch, port):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert refused(RayConfig(address=f"127.0.0.1:{port}")).startswith(f"ray.address=127.0.0.1:{port}: no Ray cluster")
