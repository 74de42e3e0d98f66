"""The Gymnasium vector env: N conversations stepped at once on one event loop, each reply beside the others.

    envs = gym.make_vec("rlenv/Conversation-v0", num_envs=64)
    observations, infos = envs.reset(seed=7)
    observations, rewards, terminations, truncations, infos = envs.step(["What happened?"] * 64)

It gives what ``gymnasium.vector.SyncVectorEnv`` of single envs gives, in the time of the slowest reply in place of the
sum. A step still waits for that one; ``rlenv.env.collect`` has no such barrier.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlenv.core.aio import run
from rlenv.core.errors import there_are
from rlenv.env.core import Observation
from rlenv.env.gym import ConversationEnv, EnvError

T = TypeVar("T")
Flags = npt.NDArray[np.bool_]
Steps = tuple[tuple[Observation, ...], npt.NDArray[np.float64], Flags, Flags, dict[str, Any]]


class ConversationVectorEnv(VectorEnv[tuple[Observation, ...], Sequence[str], npt.NDArray[Any]]):
    """``num_envs`` conversations with an agent in one seat of each.

    Observations and actions are batched as Gymnasium batches spaces of its users: tuples of ``num_envs`` elements.
    Errors are those of ``ConversationEnv``. A reset or step that fails in one conversation leaves all of them where
    they were, so that it can be taken again. An episode that ended at its reset, before the agent could say anything,
    is over there (``infos["ended_by"]``): the next step resets it, with a reward of 0 and its action unread; with
    DISABLED that is the caller's to do.

    Args:
        num_envs: how many.
        autoreset_mode: what follows the end of an episode, Gymnasium's ``AutoresetMode`` or its value; declared in
            ``metadata["autoreset_mode"]``.
        settings: of ``ConversationEnv``, equal for all.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own form)
        **ConversationEnv.metadata,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self, num_envs: int = 1, autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP, **settings: Any
    ) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs: expected 1 or more, got {num_envs}")
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in modes and not isinstance(autoreset_mode, AutoresetMode):
            raise EnvError(f"no autoreset_mode {autoreset_mode!r}; {there_are(modes, autoreset_mode)}")
        first = ConversationEnv(**settings)
        self.envs = [first, *(first.sibling() for _ in range(num_envs - 1))]
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_observation_space, self.single_action_space = first.observation_space, first.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observations: list[Observation] = [()] * num_envs

    # Gymnasium's own vector envs of several generators have these as tuples too.
    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each env's generator."""
        return tuple(env.np_random for env in self.envs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Each env's seed."""
        return tuple(env.np_random_seed for env in self.envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Observation, ...], dict[str, Any]]:
        """Begins a conversation in every env, or in those that ``options["reset_mask"]`` names.

        Args:
            seed: one an env; an int stands for itself and those that follow it. See ``ConversationEnv.reset``.
            options: of ``ConversationEnv.reset``, the same for all; ``reset_mask`` is an array of bool, [num_envs].
        """
        seeds: Sequence[int | None] = [None] * self.num_envs if seed is None else seed  # type: ignore[assignment]
        if isinstance(seed, int):
            seeds = range(seed, seed + self.num_envs)
        if len(seeds) != self.num_envs:
            raise EnvError(f"seed: expected one for each of {self.num_envs} envs, got {len(seeds)}")
        rest = dict(options or {})
        mask = _checked(rest.pop("reset_mask", np.ones(self.num_envs, np.bool_)), self.num_envs)

        async def begin(index: int) -> tuple[Observation, dict[str, Any]]:
            return await self.envs[index].reset_async(seed=seeds[index], options=rest)

        chosen = [int(index) for index in np.flatnonzero(mask)]
        begun = self._together([begin(index) for index in chosen])
        infos: dict[str, Any] = {}
        for index, (observation, info) in zip(chosen, begun, strict=True):
            self._observations[index] = observation
            infos = self._add_info(infos, info, index)
        return tuple(self._observations), infos

    def step(self, actions: Sequence[str]) -> Steps:
        """The agent says ``actions[i]`` in conversation i; the worlds answer all at once."""
        said = list(actions)
        if len(said) != self.num_envs:
            raise gym.error.InvalidAction(f"expected a message for each of {self.num_envs} envs, got {len(said)}")
        autoreset = self.autoreset_mode != AutoresetMode.DISABLED
        resets = [autoreset and env.core.begun and env.core.over for env in self.envs]
        for env, action, reset in zip(self.envs, said, resets, strict=True):
            if not reset:
                env.check_action(action)
        results = self._together([self._advance(i, said[i], resets[i]) for i in range(self.num_envs)])
        infos: dict[str, Any] = {}
        for index, (step, final) in enumerate(results):
            self._observations[index] = step[0]
            infos = self._add_info(infos, final, index)
            infos = self._add_info(infos, step[4], index)
        return (
            tuple(self._observations),
            np.array([step[1] for step, _ in results], np.float64),
            np.array([step[2] for step, _ in results], np.bool_),
            np.array([step[3] for step, _ in results], np.bool_),
            infos,
        )

    async def _advance(
        self, index: int, action: str, reset: bool
    ) -> tuple[tuple[Observation, float, bool, bool, dict[str, Any]], dict[str, Any]]:
        """Returns a single env's step, and what is known of an episode that ended in it."""
        env = self.envs[index]
        if reset:
            observation, info = await env.reset_async()
            return (observation, 0.0, False, False, info), {}
        observation, reward, terminated, truncated, info = await env.step_async(action)
        if self.autoreset_mode != AutoresetMode.SAME_STEP or not (terminated or truncated):
            return (observation, reward, terminated, truncated, info), {}
        final = {"final_obs": observation, "final_info": info}
        observation, info = await env.reset_async()
        return (observation, reward, terminated, truncated, info), final

    def _together(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Returns the results of all, or raises one's error with every env as it was before."""

        async def all_of() -> list[T]:
            before = [_mark(env) for env in self.envs]
            tasks = [asyncio.ensure_future(one) for one in work]
            try:
                return await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for env, mark in zip(self.envs, before, strict=True):
                    _go_back(env, mark)
                raise

        return run(all_of())

    def render(self) -> tuple[Any, ...] | None:
        """Returns each conversation's transcript ("ansi") or prints what is new of them ("human")."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **_: Any) -> None:
        """Lets go of what the envs hold."""
        for env in self.envs:
            env.close()


def _mark(env: ConversationEnv) -> tuple[dict[str, Any], Any]:
    """Returns what ``_go_back`` needs: a conversation is made of immutable records, so a shallow copy holds it."""
    generator = env._np_random
    return {**vars(env), "core": copy.copy(env.core)}, generator and generator.bit_generator.state


def _go_back(env: ConversationEnv, mark: tuple[dict[str, Any], Any]) -> None:
    attributes, drawn = mark
    vars(env).update(attributes)
    if env._np_random is not None:
        env._np_random.bit_generator.state = drawn


def _checked(mask: object, num_envs: int) -> Flags:
    if not isinstance(mask, np.ndarray) or mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        came = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise EnvError(f"options['reset_mask']: expected an array of bool, [{num_envs}], not all False; got {came}")
    return mask
