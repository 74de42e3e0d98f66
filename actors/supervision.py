"""A supervised Ray actor: starts it, calls it, restarts it after a death and ends it. All pools of actors use it.

    actors = [Supervised(f"engine {i}", make, log=..., max_restarts=3, startup_timeout_s=600, num_cpus=1) for i in ...]
    start_all(actors)
    await actors[0].call("generate_each", token_ids, sampling, seeds)
    actors[0].close()

Ray itself restarts a dead actor's process. But with Ray alone a constructor's error loses its type, a restart has no
time limit, and the report of a death lacks the process's last log lines. So here the process creates its object in
``start``, whose errors keep their type; every start is awaited with a time limit; and calls are repeated by this
module. Independent of what the object is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.process import NotStarted, Process, tail
from rlenv.core.aio import run
from rlenv.core.errors import ConfigError, EngineError, RlenvError
from rlenv.core.progress import waiting_for_supervised
from rlenv.models.capacity import asked, fitting, listed

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 30
RELEASE_TIMEOUT_S = 20.0  # Ray frees the resources of killed actors within a few seconds
CREATION = "error raised in its creation task"  # Ray's message if it could not even create the actor
LISTEN_S = 30.0  # a process that has been silent for long, and does not answer within this, is hung
MAX_CALLS = 1000  # concurrent calls in one process; Ray queues the others


class ActorDied(EngineError):
    """The process died before it answered; the call can be repeated after its restart."""


class _Fork:
    """Whether this process was forked from one that was connected to Ray."""

    of_ray = False

    @classmethod
    def note(cls) -> None:
        """Called in a process that was just forked."""
        cls.of_ray = cls.of_ray or ray.is_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Fork.note)


def check_not_forked() -> None:
    """Raises ``ConfigError`` in a process that was forked from one that uses Ray; its calls would wait for ever."""
    if _Fork.of_ray:
        raise ConfigError(
            "this process was forked from one that uses Ray, whose connection a fork cannot use; start workers with "
            "the method spawn or forkserver, for example multiprocessing.get_context('spawn') or AsyncVectorEnv(..., "
            "context='spawn')"
        )


class Supervised:
    """An object in its own process, which is restarted after a death. Can be pickled and sent to other processes.

    Args:
        name: name in logs and errors.
        make: picklable; creates the object. The object's ``start``, if it has one, is called first. Methods that are
            not coroutines run one at a time.
        log: log file of the process and its children.
        max_restarts: number of deaths after which the process is restarted; the next one is an error.
        startup_timeout_s: seconds after which a process that is not ready is an error, at the start and after a death.
        answer_timeout_s: seconds without an answer to any call, though there are some, and without any other sign of
            progress (``rlenv.core.progress``), after which a process that is alive counts as hung: it is killed, and so
            restarted. None waits for ever.
        options: options of the Ray actor: ``num_cpus``, ``num_gpus``, ``runtime_env`` and so on.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        *,
        log: str,
        max_restarts: int,
        startup_timeout_s: float,
        answer_timeout_s: float | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.log = str(Path(log).resolve())
        self.max_restarts = max_restarts
        self.startup_timeout_s = startup_timeout_s
        self.answer_timeout_s = answer_timeout_s
        self.pid = 0
        """Process id on its own node; 0 while the process is not known to be running."""
        self.in_flight = 0
        """Calls in progress, including those that wait for a restart."""
        self.restarts = 0
        self._heard = -math.inf
        """Monotonic time of the process's last known sign of progress."""
        self._make = make
        self._options = {"max_restarts": max_restarts, "max_concurrency": MAX_CALLS, **options}
        self._actor: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_heard": -math.inf}  # each machine has its own clock

    @property
    def resources(self) -> dict[str, float]:
        """The CPUs and GPUs that the process reserves."""
        return {"CPU": self._options.get("num_cpus", 0), "GPU": self._options.get("num_gpus", 0)}

    def launch(self) -> Any:
        """Starts the process; returns a Ray reference to its process id, for ``start_all`` to wait for."""
        check_not_forked()
        kind = getattr(self._make, "func", self._make).__name__  # the process's name in ps
        process: Any = ray.remote(type(kind, (Process,), {}))
        self._actor = process.options(**self._options).remote(self._make, self.log)
        return self._start()

    async def call(self, method: str, *args: Any) -> Any:
        """Returns what the object's method returns; the call is repeated if the process dies meanwhile.

        Raises:
            RlenvError: as raised by the method.
            EngineError: the process died more often than ``max_restarts``, or did not start again.
        """
        while True:
            try:
                return await self.once(method, *args)
            except ActorDied:
                await self.revived()

    def ask(self, method: str, *args: Any) -> Any:
        """Returns what ``call`` returns; for code that is not async."""
        return run(self.call(method, *args))

    async def once(self, method: str, *args: Any) -> Any:
        """Returns what ``call`` returns, but raises ``ActorDied`` instead of repeating the call."""
        check_not_forked()
        if not self.pid:
            await self.revived()
        pid, reference = self.pid, None
        with self._counted():
            try:
                reference = self._actor.call.remote(method, args)
                return await self._answer(reference)
            except asyncio.CancelledError:
                ray.cancel(reference)
                raise
            except RayActorError as error:
                raise self._died(pid, error) from None
            except RayTaskError as error:
                if isinstance(error.cause, NotStarted):  # it died between two calls
                    raise self._died(pid, error.cause) from None
                if isinstance(error.cause, RlenvError):
                    raise error.cause from None
                raise

    async def _answer(self, reference: Any) -> Any:
        """Returns the answer to a call; kills the process if it is silent for too long, which ends all its calls."""
        answer = asyncio.wrap_future(reference.future())
        try:
            if self.answer_timeout_s is None:
                return await answer
            began = time.monotonic()
            with waiting_for_supervised():
                while True:
                    patience = max(began, self._heard) + self.answer_timeout_s - time.monotonic()
                    done, _ = await asyncio.wait([answer], timeout=max(0.0, patience))
                    if done:
                        break
                    await self._listen()
                    if max(began, self._heard) + self.answer_timeout_s <= time.monotonic():
                        self._end_silence()
            self._heard = time.monotonic()
            return await answer
        finally:
            answer.cancel()

    async def _listen(self) -> None:
        """Asks the process for its last sign of progress; does nothing if it does not answer."""
        asked = asyncio.wrap_future(self._actor.silence_s.remote().future())
        try:
            silence = await asyncio.wait_for(asked, min(LISTEN_S, self.answer_timeout_s or LISTEN_S))
        except TimeoutError:
            return
        except RayError:  # it has died, as the calls will tell
            silence = 0.0
        self._heard = max(self._heard, time.monotonic() - silence)

    def _end_silence(self) -> None:
        silent = f"is alive and has given no sign of progress for {self.answer_timeout_s:g} s"
        logger.warning("%s %s; killing it (raise answer_timeout_s if it is only slow)", self.name, silent)
        self._heard = time.monotonic()  # so that one of the waiting calls kills it, and not each
        ray.kill(self._actor, no_restart=False)

    async def revived(self) -> None:
        """Waits until the process is running.

        Raises:
            EngineError: it is not running, did not come back in time, or died too often; with its last log lines.
        """
        if self._actor is None:
            raise EngineError(f"{self.name} is not running; call start() first")
        with self._counted(), waiting_for_supervised():
            try:
                started = asyncio.wrap_future(self._start().future())
                self.pid = await asyncio.wait_for(started, self.startup_timeout_s)
            except TimeoutError:
                raise self.not_ready() from None
            except RayError as error:
                raise self.failed(error) from None

    def close(self) -> None:
        """Ends the process, by force if it does not answer; safe to call twice."""
        if self._actor is not None:
            with suppress(RayError):
                ray.get(self._actor.close.remote(), timeout=CLOSE_TIMEOUT_S)
            self.kill()

    def kill(self) -> None:
        """Ends the process by force; its children die with it."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor, self.pid = None, 0

    def failed(self, error: RayError) -> RlenvError:
        """Returns the error for a process that does not start: the object's own error if it is an ``RlenvError``."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, ConfigError):
            return ConfigError(f"{self.name}: {cause}")
        if isinstance(cause, RlenvError):
            return cause
        if isinstance(error, RayActorError) and CREATION not in str(error):
            spent = f"max_restarts = {self.max_restarts} is used up; resume the run to try again"
            return EngineError(self._report(f"died ({_reason(error)}) and {spent}"))
        return EngineError(self._report(f"failed to start ({_reason(error)})"))

    def not_ready(self) -> EngineError:
        """Returns the error for a process that is not ready in time."""
        free = ray.available_resources()
        return EngineError(
            self._report(
                f"was not ready after {self.startup_timeout_s:g} s (the cluster has {free.get('CPU', 0):g} CPUs and "
                f"{free.get('GPU', 0):g} GPUs free); if it was still loading, raise startup_timeout_s"
            )
        )

    def _start(self) -> Any:
        return self._actor.start.options(max_task_retries=-1).remote()

    def _died(self, pid: int, error: Exception) -> ActorDied:
        if pid == self.pid:  # the first to notice
            self.pid = 0
            self.restarts += 1
            logger.warning("%s died (%s); restarting it", self.name, _reason(error))
        return ActorDied(f"{self.name} died ({_reason(error)})")

    def _report(self, what: str) -> str:
        return f"{self.name} {what}. The last lines of {self.log}:\n{tail(self.log)}"

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def start_all(actors: Sequence[Supervised]) -> None:
    """Starts all actors at once and returns when all are ready; after an error, all are ended.

    Raises:
        ConfigError: Ray is not running, or the cluster lacks the resources.
        RlenvError: as raised by the object.
        EngineError: the object raised another error, the process died or was not ready in time; has the last log lines.
    """
    check_capacity(actors)
    deadline = time.monotonic() + max(actor.startup_timeout_s for actor in actors)
    try:
        waiting = {actor.launch(): actor for actor in actors}
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise next(iter(waiting.values())).not_ready()
            actor = waiting.pop(ready[0])
            try:
                actor.pid = ray.get(ready[0])
            except RayError as error:
                raise actor.failed(error) from None
    except BaseException:
        for actor in actors:
            actor.kill()
        raise


def check_capacity(actors: Sequence[Supervised], release_timeout_s: float = RELEASE_TIMEOUT_S) -> None:
    """Waits until the cluster has the resources for all actors; Ray itself would wait forever.

    Raises:
        ConfigError: Ray is not running, the actors do not fit on the nodes, or other users of the cluster do not free
            the resources within ``release_timeout_s``.
    """
    names = actors[0].name if len(actors) == 1 else f"{actors[0].name} to {actors[-1].name}"
    if not ray.is_initialized():
        raise ConfigError(f"{names}: Ray is not running; call ray.init() first")
    need = actors[0].resources
    way_out = "lower the replicas, num_cpus or num_gpus, or add nodes"
    request = f"{names}: {asked(len(actors), need)}, but {{}} (per node); {way_out}"
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if fitting(totals, need) < len(actors):
        raise ConfigError(request.format(f"the cluster has {listed(totals)}"))
    deadline = time.monotonic() + release_timeout_s
    while fitting(free := list(available_resources_per_node().values()), need) < len(actors):
        if time.monotonic() > deadline:
            raise ConfigError(request.format(f"only {listed(free)} are free, the rest is in use"))
        time.sleep(0.2)


def _reason(error: Exception) -> str:
    """Returns the type and message of an error, in one line of at most 300 characters."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()] or [""]
    if isinstance(error, RayActorError) and CREATION not in str(error):
        cause_line = next((line for line in lines if line.startswith("The actor is dead because")), lines[0])
        return cause_line.split(" Some common causes")[0][:300]
    return (f"{type(cause).__name__}: {lines[0]}" if cause else lines[-1])[:300]
