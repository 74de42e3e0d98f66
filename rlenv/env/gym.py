"""The Gymnasium face of the conversation env: synchronous, one conversation, the same core underneath.

    env = gym.make("rlenv/Conversation-v0")
    obs, info = env.reset(seed=7)
    obs, reward, terminated, truncated, info = env.step("That sounds hard. What happened next?")

Without arguments it is played against the embedded reference population, which is synthetic; with ``config`` against
the models of an adversarial run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym

from rlenv.core.aio import run
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.protocols import Reward, Speaker
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Seat
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore, Observation
from rlenv.env.providers import env_parts
from rlenv.env.scenarios import Scenario
from rlenv.env.spaces import Messages, Utterances

_PARTNER = {"chatbot": "simulator", "user": "chatbot"}
"""What the counterpart is called, opposite an agent in each seat."""


class EnvError(ConfigError, gym.error.Error):
    """Settings or options that this env cannot follow: a ``gymnasium.error.Error`` and a ``ConfigError`` in one."""


def _nothing() -> None:
    """Holds nothing."""


@contextmanager
def _as_gym_error() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise EnvError(*error.args) from None


class ConversationEnv(gym.Env[Observation, str]):
    """A conversation with an agent in one seat.

    An action is the agent's next message. An empty one is a silent message; surrogates that stand alone are kept
    in the transcript and read as U+FFFD by models; more than 100,000 characters, or anything but text, raises
    ``gymnasium.error.InvalidAction``. A step before ``reset`` or after the end raises
    ``gymnasium.error.ResetNeeded``. Settings and options that cannot be followed raise ``EnvError``, which is a
    ``gymnasium.error.Error`` too. Where the counterpart's engine dies, ``EngineError`` comes through and the
    conversation stays where it was.

    ``terminated``: the user left or the session concluded. ``truncated``: the cap of turns, tokens or seconds in
    ``limits``; the last one also while a reply is waited for. ``info["ended_by"]`` and ``info["end_reason"]`` say
    which. A user who leaves before the agent's first message is seen there at ``reset``.

    Args:
        seat: "chatbot" or "user".
        scenarios: what to reset to.
        counterparts: who may sit in the other seat, an ``rlenv.env.ensemble.Ensemble`` where they come with weights.
        limits: when a conversation is truncated.
        reward: what a step is worth, as from ``rlenv.rewards.registry.make_reward``. Its parts, weighted, are in
            ``info["rewards"]``.
        split: where contexts are drawn from unless ``reset`` says otherwise.
        render_mode: "ansi" returns the transcript, "human" prints it.
        config: an env's YAML file (conf/env_esconv.yaml) or a run directory. Models are then served through Ray, in the
            cluster that is running or one of its own, until ``close``; envs of one process and equal settings share
            them. Where it is given, what is None above is what it says; without it, the reference population, the
            limits' defaults, reward 0 and all splits.
        overrides: changes to ``config``, as in ``["rewards={realism: 1}", "settings.env.max_turns=5"]``.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        seat: Seat = "chatbot",
        scenarios: Sequence[Scenario] | None = None,
        counterparts: Mapping[str, Speaker] | None = None,
        limits: Limits | None = None,
        reward: Reward | None = None,
        split: str | None = None,
        render_mode: str | None = None,
        config: str | Path | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        if seat not in _PARTNER:
            raise EnvError(f"no seat {seat!r}; {there_are(_PARTNER, seat)}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise EnvError(f"render_mode is {render_mode!r}; use one of {self.metadata['render_modes']}")
        with _as_gym_error():
            parts = env_parts(seat, scenarios, counterparts, limits, reward, split, config=config, overrides=overrides)
            try:
                self.core = ConversationCore(parts.scenarios, parts.counterparts, seat, parts.limits, parts.reward)
                self.core.scenarios.choose(0, split=parts.split)  # a split that is not there is told now
            except BaseException:
                parts.close()
                raise
        self.split = parts.split
        self._release = parts.close
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
            options: ``context_id`` asks for one context; ``persona`` draws among one user's contexts, ``split``
                among those of one part of the data. ``counterpart`` asks for one partner by name; it may be called
                ``simulator`` in the chatbot's seat and ``chatbot`` in the user's. None draws.
        """
        return run(self.reset_async(seed=seed, options=options))

    async def reset_async(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Does what ``reset`` does, for callers on an event loop."""
        super().reset(seed=seed)
        asked = self._asked(options or {})
        self._shown = 0
        episode_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        with _as_gym_error():
            result = await self.core.reset(seed=episode_seed, **asked)
        self._show()
        return result

    def _asked(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Returns the options as the core knows them."""
        partner = _PARTNER[self.core.seat]
        known = ("context_id", "persona", "split", "counterpart", partner)
        problems = [f"no reset option {o!r}; {there_are(known, o)}" for o in options if o not in known]
        problems += [
            f"the reset option {o!r} is a name (str), got {type(value).__name__}"
            for o, value in options.items()
            if o in known and not isinstance(value, str | None)
        ]
        asked = {o: value for o, value in options.items() if value is not None}
        if partner in asked and asked.setdefault("counterpart", asked[partner]) != asked.pop(partner):
            problems.append(f"the reset options 'counterpart' and {partner!r} are one and ask for different partners")
        if problems:
            raise EnvError("\n".join(problems))
        if self.split is not None and "context_id" not in asked:
            asked.setdefault("split", self.split)
        return asked

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The agent says ``action``; the counterpart answers."""
        return run(self.step_async(action))

    async def step_async(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Does what ``step`` does, for callers on an event loop."""
        self.check_action(action)
        self._need_conversation(self.core.over)
        with _as_gym_error():
            result = await self.core.step(action)
        self._show()
        return result

    def check_action(self, action: object) -> None:
        """Returns where ``action`` is a message that may be said.

        Raises:
            gymnasium.error.InvalidAction: it is none.
        """
        if not isinstance(action, str):
            raise gym.error.InvalidAction(f"an action is a message (str), got {type(action).__name__}")
        if not self.action_space.contains(action):
            limit = self.action_space.max_length  # type: ignore[attr-defined]
            raise gym.error.InvalidAction(f"a message has at most {limit} characters, got {len(action)}")

    def render(self) -> str | None:
        """Returns the transcript ("ansi") or prints what is new of it ("human")."""
        if self.render_mode == "human":
            self._show()
            return None
        return "\n".join(self._lines())

    def close(self) -> None:
        """Lets go of the models that a config has served; forks of this env end with it. Safe to call twice."""
        self._release()

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a JSON-able dictionary."""
        self._need_conversation(not self.core.begun)
        return self.core.snapshot()

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Continues a snapshot; another ``seed`` makes the counterpart go on differently from there."""
        with _as_gym_error():
            observation = self.core.restore(snapshot, seed)
        self._shown = min(self._shown, len(observation))
        return observation

    def fork(self, n: int | None = None, *, seeds: Sequence[int | None] | None = None) -> list[ConversationEnv]:
        """Returns envs that stand where this one does and go on apart from it and from one another.

        Args:
            n: how many, each going on under a seed of its own that follows from this conversation's.
            seeds: one an env, in place of ``n``; equal seeds go on equally, None goes on as this one will.
        """
        if (n is None) == (seeds is None) or (n is not None and n < 0):
            raise EnvError(
                f"fork takes either a number of envs (0 or more) or their seeds, got n={n} and seeds={seeds}"
            )
        self._need_conversation(not self.core.begun)
        if seeds is None:
            seeds = [derive_seed(self.core.state.seed, "fork", i) for i in range(n or 0)]
        forks = [self._around(core) for core in self.core.fork(seeds)]
        for fork in forks:
            fork._np_random, fork._np_random_seed = gym.utils.seeding.np_random(fork.core.state.seed)
        return forks

    def sibling(self) -> ConversationEnv:
        """Returns another env of the same settings, before its first reset."""
        other = self._around(self.core.sibling())
        other._np_random, other._np_random_seed, other._shown = None, None, 0
        return other

    def _around(self, core: ConversationCore) -> ConversationEnv:
        other = copy.copy(self)
        other.core = core
        other._release = _nothing  # the env that was forked holds the models
        other.observation_space, other.action_space = Messages(), Utterances()
        return other

    def _need_conversation(self, missing: bool) -> None:
        if missing:
            raise gym.error.ResetNeeded("there is no conversation under way: call reset() first")

    def _lines(self) -> list[str]:
        return [f"{t.role}: {t.utterance.text}" for t in self.core.state.turns] if self.core.begun else []

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        lines = self._lines()
        for line in lines[self._shown :]:
            print(line)
        self._shown = len(lines)
