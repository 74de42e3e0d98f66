"""A supervised process says at once why it does not start, redoes what a death interrupted, and leaves nothing."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
import time

import psutil
import pytest
import ray

from actors.supervision import Supervised, start_all
from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.progress import progressed

pytestmark = pytest.mark.ray


def toy(tmp_path, **settings) -> Supervised:
    """Returns a supervised toy, of a class that the process gets by value."""
    slow, hung = tmp_path / "slow", tmp_path / "hung"
    starts, fails = settings.pop("start_s", 0.0), settings.pop("fails", None)

    class Toy:
        def __init__(self) -> None:
            print("the toy was made", flush=True)
            if fails is not None:
                raise fails

        async def start(self) -> None:
            await asyncio.sleep(60.0 if slow.exists() else starts)

        async def double(self, number: int, wait_s: float = 0.0) -> int:
            await asyncio.sleep(wait_s)
            return 2 * number

        async def refuse(self) -> None:
            raise OverlongError("it does not fit 10 tokens")

        async def die(self) -> None:
            print("about to die", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        async def hang_once(self) -> str:
            if not hung.exists():
                hung.touch()
                time.sleep(600)
            return "back"

        def works(self, seconds: float) -> str:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.1)
                progressed()
            return "done"

        async def asks(self, other: Supervised) -> object:
            return await other.call("double", 3, 6.0)

        def one_at_a_time(self) -> tuple[float, float]:
            began = time.monotonic()
            time.sleep(0.1)
            return began, time.monotonic()

        def child(self) -> int:
            import subprocess

            return subprocess.Popen(["sleep", "600"], preexec_fn=_die_with_parent).pid

    def _die_with_parent() -> None:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)

    options = {"max_restarts": 2, "startup_timeout_s": 60.0, "num_cpus": 0.1, **settings}
    return Supervised("toy", Toy, log=str(tmp_path / "toy.log"), **options)


@pytest.fixture
def running(tmp_path, cluster):
    actor = toy(tmp_path)
    start_all([actor])
    yield actor
    actor.close()


async def _all(actor: Supervised, num: int, wait_s: float, disturb=lambda: None) -> list[int]:
    calls = [asyncio.ensure_future(actor.call("double", i, wait_s)) for i in range(num)]
    await asyncio.sleep(wait_s / 2)
    disturb()
    return await asyncio.gather(*calls)


def _kill(actor: Supervised) -> None:
    os.kill(actor.pid, signal.SIGKILL)


def test_calls_of_a_killed_process_are_repeated_and_its_log_continues(running, tmp_path):
    first = running.pid
    assert asyncio.run(_all(running, 20, 0.5, lambda: _kill(running))) == [2 * i for i in range(20)]
    assert (running.restarts, running.in_flight) == (1, 0) and running.pid not in (0, first)
    assert (tmp_path / "toy.log").read_text().count("the toy was made") == 2


def test_a_death_between_calls_is_noticed_by_the_next_call(running):
    first = running.pid
    _kill(running)
    time.sleep(3)
    assert running.ask("double", 4) == 8
    assert running.restarts == 1 and running.pid != first


def test_a_call_that_kills_the_process_each_time_ends_with_the_count_the_cause_and_the_last_log_lines(running):
    with pytest.raises(EngineError, match=r"toy died .*and max_restarts = 2 is used up") as error:
        running.ask("die")
    assert "worker process has died" in str(error.value)
    assert "toy.log:\n" in str(error.value) and str(error.value).endswith("about to die")
    assert running.restarts == 3


def test_a_process_that_is_alive_and_silent_is_killed_and_its_calls_are_repeated(tmp_path, cluster):
    actor = toy(tmp_path, answer_timeout_s=2.0)
    start_all([actor])

    async def calls() -> list[object]:
        hangs = asyncio.ensure_future(actor.call("hang_once"))
        await asyncio.sleep(0.5)
        return await asyncio.gather(hangs, *(actor.call("double", i) for i in range(5)))

    try:
        assert asyncio.run(calls()) == ["back", 0, 2, 4, 6, 8]
        assert (actor.restarts, actor.in_flight) == (1, 0)
    finally:
        actor.close()


def test_a_process_that_is_stopped_is_killed_and_its_calls_are_repeated(tmp_path, cluster):
    actor = toy(tmp_path, answer_timeout_s=2.0)
    start_all([actor])
    try:
        stopped = actor.pid
        os.kill(stopped, signal.SIGSTOP)
        assert asyncio.run(_all(actor, 5, 0.1)) == [0, 2, 4, 6, 8]
        assert actor.restarts == 1 and actor.pid != stopped and not psutil.pid_exists(stopped)
    finally:
        actor.close()


def test_a_call_that_makes_progress_or_waits_for_another_supervised_process_is_waited_for(tmp_path, cluster):
    actor, other = toy(tmp_path, answer_timeout_s=4.0), toy(tmp_path, answer_timeout_s=60.0)
    start_all([actor, other])
    try:
        assert actor.ask("works", 8.0) == "done"
        assert actor.ask("asks", other) == 6
        assert (actor.restarts, other.restarts) == (0, 0)
    finally:
        actor.close()
        other.close()


def test_a_call_that_takes_long_is_waited_for_while_others_are_answered(tmp_path, cluster):
    actor = toy(tmp_path, answer_timeout_s=3.0)
    start_all([actor])

    async def calls() -> int:
        slow = asyncio.ensure_future(actor.call("double", 1, 7.0))
        while not slow.done():
            assert await actor.call("double", 2, 0.2) == 4
        return await slow

    try:
        assert asyncio.run(calls()) == 2 and actor.restarts == 0
    finally:
        actor.close()


def test_rlenv_errors_keep_their_type_and_cost_no_restart(running):
    with pytest.raises(OverlongError, match=r"^it does not fit 10 tokens$"):
        running.ask("refuse")
    assert running.restarts == 0


def test_methods_that_are_not_coroutines_run_one_at_a_time(running):
    async def both():
        return await asyncio.gather(*(running.call("one_at_a_time") for _ in range(3)))

    times = sorted(asyncio.run(both()))
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times))


def test_another_process_can_call_it_and_survives_its_death_too(running):
    @ray.remote(num_cpus=0.1)
    def elsewhere(actor: Supervised) -> tuple[int, int]:
        before = actor.ask("double", 1)
        os.kill(actor.pid, signal.SIGKILL)
        return before, actor.ask("double", 2)

    assert ray.get(elsewhere.remote(running), timeout=60) == (2, 4)
    assert running.ask("double", 3) == 6


def test_an_error_of_the_constructor_is_raised_at_once_with_type_message_and_log(tmp_path, cluster):
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"toy failed to start \(FileNotFoundError: no checkpoint at x\)") as error:
        start_all([toy(tmp_path, fails=FileNotFoundError("no checkpoint at x"))])
    assert "the toy was made" in str(error.value)
    with pytest.raises(ConfigError, match="toy: no such backend"):
        start_all([toy(tmp_path, fails=ConfigError("no such backend"))])
    with pytest.raises(OverlongError, match=r"^too long$"):
        start_all([toy(tmp_path, fails=OverlongError("too long"))])
    assert time.monotonic() - began < 45


def test_a_factory_that_cannot_be_unpickled_is_reported_with_its_error(tmp_path, cluster):
    def lacks() -> None:
        raise ModuleNotFoundError("No module named 'elsewhere'")

    class Unreadable:
        __name__ = "Unreadable"

        def __reduce__(self):
            return lacks, ()

    actor = Supervised("toy", Unreadable(), log=str(tmp_path / "toy.log"), max_restarts=2, startup_timeout_s=60.0)
    with pytest.raises(EngineError, match=r"toy failed to start \(ModuleNotFoundError: No module named 'elsewhere'\)"):
        start_all([actor])


def test_one_that_fails_ends_the_start_of_all_before_the_slow_ones_are_ready(tmp_path, cluster):
    slow, failing = toy(tmp_path, start_s=120.0), toy(tmp_path, fails=ValueError("seven"))
    with pytest.raises(EngineError, match="ValueError: seven"):
        start_all([slow, failing])
    assert slow.pid == failing.pid == 0
    with pytest.raises(EngineError, match=r"not running; call start\(\) first"):
        slow.ask("double", 1)


def test_a_start_that_takes_too_long_is_an_error_the_first_time_and_after_a_death(tmp_path, cluster):
    with pytest.raises(
        EngineError, match=r"toy was not ready after 2 s \(the cluster has .* CPUs .*raise startup_timeout_s"
    ):
        start_all([toy(tmp_path, start_s=60.0, startup_timeout_s=2.0)])
    actor = toy(tmp_path)
    start_all([actor])
    actor.startup_timeout_s = 2.0  # from here on: the first start takes as long as the machine needs
    (tmp_path / "slow").touch()
    _kill(actor)
    with pytest.raises(EngineError, match="toy was not ready after 2 s"):
        actor.ask("double", 1)
    actor.close()


def test_closing_leaves_no_process_and_may_be_done_twice(running):
    pids = [running.pid, running.ask("child")]
    running.close()
    running.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(map(_alive, pids)):
        time.sleep(0.1)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_was_forked_from_one_with_ray_is_told_which_start_method_to_use(running):
    receive, send = multiprocessing.Pipe(duplex=False)

    def call() -> None:
        try:
            running.ask("double", 1)
        except ConfigError as error:
            send.send(str(error))

    child = multiprocessing.get_context("fork").Process(target=call)
    child.start()
    try:
        assert receive.poll(30) and "the method spawn or forkserver" in receive.recv()
    finally:
        child.kill()
        child.join()
