"""The Gymnasium face of the conversation env: synchronous, one conversation, the same core underneath.

    env = gym.make("rlenv/Conversation-v0")
    obs, info = env.reset(seed=7)
    obs, reward, terminated, truncated, info = env.step("That sounds hard. What happened next?")

Without arguments it is played against the embedded reference population, which is synthetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from rlenv.aio import run
from rlenv.conversation import Limits
from rlenv.env import ConversationCore, Observation, Scenario
from rlenv.protocols import Reward, Speaker
from rlenv.spaces import Messages, Utterances
from rlenv.types import Seat

_OPTIONS = ("context_id", "world")


class ConversationEnv(gym.Env[Observation, str]):
    """A conversation with an agent in one seat.

    An action is the agent's next message. An empty one is a silent message; surrogates that stand alone are kept
    in the transcript and read as U+FFFD by models; more than 100,000 characters, or anything but text, raises
    ``gymnasium.error.InvalidAction``. A step before ``reset`` or after the end raises
    ``gymnasium.error.ResetNeeded``.

    Args:
        seat: "chatbot" or "user".
        scenarios: what to reset to; None is the reference population.
        world: who may sit in the other seat; None is the reference population.
        limits: when a conversation is truncated.
        reward: what a step is worth; None gives 0.
        render_mode: "ansi" returns the transcript, "human" prints it.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        seat: Seat = "chatbot",
        scenarios: Sequence[Scenario] | None = None,
        world: Mapping[str, Speaker] | None = None,
        limits: Limits = Limits(),
        reward: Reward | None = None,
        render_mode: str | None = None,
    ) -> None:
        if scenarios is None or world is None:
            from rlenv.population.scenarios import population_scenarios, population_world

            scenarios = population_scenarios() if scenarios is None else scenarios
            world = population_world(seat) if world is None else world
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise gym.error.Error(f"render_mode is {render_mode!r}; use one of {self.metadata['render_modes']}")
        self.core = ConversationCore(scenarios, world, seat, limits, reward)
        self.render_mode = render_mode
        self.observation_space = Messages()
        self.action_space = Utterances()
        self._shown = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins a conversation.

        Args:
            seed: equal seeds and equal actions give equal conversations; without one the env's own generator,
                seeded once, draws it.
            options: ``context_id`` asks for one context, ``world`` for one partner.
        """
        super().reset(seed=seed)
        unknown = sorted(set(options or {}) - set(_OPTIONS))
        if unknown:
            raise gym.error.Error(f"unknown reset options {unknown}; there are {list(_OPTIONS)}")
        self._shown = 0
        episode_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        result = run(self.core.reset(seed=episode_seed, **(options or {})))
        self._show()
        return result

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The agent says ``action``; the world answers."""
        if not isinstance(action, str):
            raise gym.error.InvalidAction(f"an action is a message (str), got {type(action).__name__}")
        if not self.action_space.contains(action):
            limit = self.action_space.max_length  # type: ignore[attr-defined]
            raise gym.error.InvalidAction(f"a message has at most {limit} characters, got {len(action)}")
        if self.core.over:
            raise gym.error.ResetNeeded("there is no conversation under way: call reset() first")
        result = run(self.core.step(action))
        self._show()
        return result

    def render(self) -> str | None:
        """Returns the transcript ("ansi") or prints what is new of it ("human")."""
        if self.render_mode == "human":
            self._show()
            return None
        return "\n".join(self._lines())

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a JSON-able dictionary."""
        return self.core.snapshot()

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Continues a snapshot; another ``seed`` makes the world go on differently from there."""
        return self.core.restore(snapshot, seed)

    def _lines(self) -> list[str]:
        return [f"{t.role}: {t.utterance.text}" for t in self.core.state.turns]

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        lines = self._lines()
        for line in lines[self._shown :]:
            print(line)
        self._shown = len(lines)
