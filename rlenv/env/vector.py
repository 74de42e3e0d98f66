"""The Gymnasium vector env: N conversations stepped together on one event loop, with concurrent replies.

    envs = gym.make_vec("rlenv/Conversation-v0", num_envs=64)
    observations, infos = envs.reset(seed=7)
    observations, rewards, terminations, truncations, infos = envs.step(["What happened?"] * 64)

It returns what ``gymnasium.vector.SyncVectorEnv`` over single envs would return, but a step takes as long as the
slowest reply, not as long as all of them together. ``rlenv.env.collect`` has no such barrier at all.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
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

    Observations and actions are batched as Gymnasium does for custom spaces: tuples of ``num_envs`` elements. Errors
    are those of ``ConversationEnv``. If a reset or step fails in one conversation, all of them are unchanged and the
    call can be repeated. If an episode ends during its reset, before the agent's first message (``infos["ended_by"]``),
    the next step resets it with reward 0 and ignores its action; with ``AutoresetMode.DISABLED`` the caller must reset
    it.

    Args:
        num_envs: the number of conversations.
        autoreset_mode: what follows the end of an episode, Gymnasium's ``AutoresetMode`` or its value; also in
            ``metadata["autoreset_mode"]``.
        max_episode_steps: steps after which an episode is truncated, as in ``gym.make``; None is no limit but that of
            ``limits``.
        settings: arguments of ``ConversationEnv``, equal for all.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium's own form)
        **ConversationEnv.metadata,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        if num_envs < 1:
            raise EnvError(f"num_envs: expected 1 or more, got {num_envs}")
        if max_episode_steps is not None and (type(max_episode_steps) is not int or max_episode_steps < 1):
            raise EnvError(f"max_episode_steps: expected a whole number of 1 or more, got {max_episode_steps!r}")
        known = inspect.signature(ConversationEnv).parameters
        if unknown := sorted(set(settings) - set(known)):
            raise EnvError(f"no setting {unknown[0]!r}; {there_are(known, unknown[0])}, max_episode_steps")
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
        self._max_episode_steps = max_episode_steps
        self._num_steps = [0] * num_envs

    # Tuples, as in Gymnasium's own vector envs that have several generators.
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
        """Starts a conversation in every env, or only where ``options["reset_mask"]`` is True.

        Args:
            seed: one per env; an int n means n, n + 1, ... See ``ConversationEnv.reset``.
            options: those of ``ConversationEnv.reset``, equal for all; ``reset_mask`` is an array of bool, [num_envs].
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
            self._observations[index], self._num_steps[index] = observation, 0
            infos = self._add_info(infos, info, index)
        return tuple(self._observations), infos

    def step(self, actions: Sequence[str]) -> Steps:
        """Adds ``actions[i]`` to conversation i and the counterparts' replies, which are generated concurrently."""
        messages = list(actions)
        if len(messages) != self.num_envs:
            raise gym.error.InvalidAction(
                f"actions: expected a message for each of {self.num_envs} envs, got {len(messages)}"
            )
        autoreset = self.autoreset_mode != AutoresetMode.DISABLED
        resets = [
            autoreset and env.core.begun and (env.core.over or self._is_last(num))
            for env, num in zip(self.envs, self._num_steps, strict=True)
        ]
        for env, action, reset in zip(self.envs, messages, resets, strict=True):
            if not reset:
                env.check_action(action)
        results = self._together([self._advance(i, messages[i], resets[i]) for i in range(self.num_envs)])
        infos: dict[str, Any] = {}
        for index, (step, final) in enumerate(results):
            self._observations[index] = step[0]
            self._num_steps[index] = 0 if resets[index] or final else self._num_steps[index] + 1
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
        """Returns a single env's step, and the final observation and info if its episode ended in SAME_STEP mode."""
        env = self.envs[index]
        if reset:
            observation, info = await env.reset_async()
            return (observation, 0.0, False, False, info), {}
        observation, reward, terminated, truncated, info = await env.step_async(action)
        truncated = truncated or self._is_last(self._num_steps[index] + 1)
        if self.autoreset_mode != AutoresetMode.SAME_STEP or not (terminated or truncated):
            return (observation, reward, terminated, truncated, info), {}
        final = {"final_obs": observation, "final_info": info}
        observation, info = await env.reset_async()
        return (observation, reward, terminated, truncated, info), final

    def _is_last(self, num_steps: int) -> bool:
        """Returns whether an episode is truncated after so many steps."""
        return self._max_episode_steps is not None and num_steps >= self._max_episode_steps

    def _together(self, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Returns the results of all coroutines, or restores every env and raises the first error."""

        async def all_of() -> list[T]:
            before = [_saved(env) for env in self.envs]
            tasks = [asyncio.ensure_future(one) for one in work]
            try:
                return await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for env, saved in zip(self.envs, before, strict=True):
                    _restore(env, saved)
                raise

        return run(all_of())

    def render(self) -> tuple[Any, ...] | None:
        """Returns each conversation's transcript ("ansi") or prints their new messages ("human")."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **_: Any) -> None:
        """Closes every env."""
        for env in self.envs:
            env.close()


def _saved(env: ConversationEnv) -> tuple[dict[str, Any], Any]:
    """Returns what ``_restore`` needs; a shallow copy is enough, since a conversation consists of immutable records."""
    generator = env._np_random
    return {**vars(env), "core": copy.copy(env.core)}, generator and generator.bit_generator.state


def _restore(env: ConversationEnv, saved: tuple[dict[str, Any], Any]) -> None:
    attributes, generator_state = saved
    vars(env).clear()  # what did not exist before, such as the generator of an env's first reset, is taken away
    vars(env).update(attributes)
    if env._np_random is not None and generator_state is not None:
        env._np_random.bit_generator.state = generator_state


def _checked(mask: object, num_envs: int) -> Flags:
    if not isinstance(mask, np.ndarray) or mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        actual = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise EnvError(f"options['reset_mask']: expected an array of bool, [{num_envs}], not all False; got {actual}")
    return mask
