"""The Gymnasium interface of the conversation env: synchronous, one conversation, on top of ``ConversationCore``.

    env = gym.make("rlenv/Conversation-v0")
    obs, info = env.reset(seed=7)
    obs, reward, terminated, truncated, info = env.step("That sounds hard. What happened next?")

Without arguments the counterparts are the embedded reference population, which is synthetic; with ``config`` they are
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
from rlenv.core.files import short_name
from rlenv.core.protocols import Reward, Speaker
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Seat
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore, Observation
from rlenv.env.providers import env_parts
from rlenv.env.scenarios import Scenario
from rlenv.env.spaces import Messages, Utterances

_PARTNER = {"chatbot": "simulator", "user": "chatbot"}
"""Agent's seat to the counterpart's usual name."""


class EnvError(ConfigError, gym.error.Error):
    """Invalid settings or options of the env: both a ``gymnasium.error.Error`` and a ``ConfigError``."""


def _nothing() -> None:
    """Does nothing: the ``close`` of an env that owns no models."""


@contextmanager
def _as_gym_error() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise EnvError(*error.args) from None


class ConversationEnv(gym.Env[Observation, str]):
    """A conversation with an agent in one seat.

    An action is the agent's next message (str). An empty message is allowed. Lone surrogates are kept in the
    transcript, and models read them as U+FFFD.

    ``terminated``: the user left or the session was concluded. ``truncated``: a cap of ``limits`` on turns, tokens or
    seconds was reached; the clock also runs while a reply is awaited. ``info["ended_by"]`` and ``info["end_reason"]``
    tell who or what ended the episode. If the user leaves before the agent's first message, the info of ``reset``
    already has them.

    Args:
        seat: the agent's seat, "chatbot" or "user".
        scenarios: the starting points that ``reset`` draws from.
        counterparts: speakers for the other seat, by name; an ``rlenv.env.ensemble.Ensemble`` if they have weights.
        limits: when a conversation is truncated.
        reward: the reward of a step, for example from ``rlenv.rewards.registry.make_reward``. Its weighted parts are
            in ``info["rewards"]``.
        split: the split that contexts are drawn from, unless the options of ``reset`` give another.
        render_mode: "ansi" returns the transcript, "human" prints it.
        config: the YAML file of an env (conf/env_esconv.yaml) or a run directory. Its models are served through Ray,
            in the running cluster or a new one, until ``close``; envs of one process with equal settings share them.
            An argument above that is None takes the config's value; without a config, the defaults are the reference
            population, the default limits, reward 0 and all splits.
        overrides: changes to ``config``, as in ``["rewards={realism: 1}", "settings.env.max_turns=5"]``.

    Raises:
        EnvError: invalid settings or options.
        gymnasium.error.InvalidAction: an action that is no text, or has more than 100,000 characters.
        gymnasium.error.ResetNeeded: a step before ``reset`` or after the end of the episode.
        rlenv.core.errors.EngineError: the counterpart's engine died; the conversation is unchanged.
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
            raise EnvError(f"render_mode: expected one of {self.metadata['render_modes']}, got {render_mode!r}")
        with _as_gym_error():
            parts = env_parts(seat, scenarios, counterparts, limits, reward, split, config=config, overrides=overrides)
            try:
                self.core = ConversationCore(parts.scenarios, parts.counterparts, seat, parts.limits, parts.reward)
                self.core.scenarios.choose(0, split=parts.split)  # reports an unknown split now, not at reset
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
        """Starts a conversation and returns (observation, info).

        Args:
            seed: equal seeds and equal actions give equal conversations; None draws a seed from the env's own
                generator.
            options: ``context_id`` selects a context; ``persona`` draws among the contexts of one user, ``split``
                among those of one split. ``counterpart`` selects a counterpart by name; it may also be called
                ``simulator`` when the agent is the chatbot, or ``chatbot`` when the agent is the user. A missing
                option, or None, is drawn.
        """
        return run(self.reset_async(seed=seed, options=options))

    async def reset_async(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Like ``reset``, for callers in an event loop."""
        super().reset(seed=seed)
        choices = self._checked_options(options or {})
        self._shown = 0
        episode_seed = seed if seed is not None else int(self.np_random.integers(2**31))
        with _as_gym_error():
            result = await self.core.reset(seed=episode_seed, **choices)
        self._show()
        return result

    def _checked_options(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Returns the options as arguments of the core's ``reset``."""
        partner = _PARTNER[self.core.seat]
        known = ("context_id", "persona", "split", "counterpart", partner)
        problems = [
            f"no reset option {o!r} (for {short_name(value)}); {there_are(known, o)}"
            for o, value in options.items()
            if o not in known
        ]
        problems += [
            f"reset option {o!r}: expected a name (str), got {type(value).__name__}"
            for o, value in options.items()
            if o in known and not isinstance(value, str | None)
        ]
        choices = {o: value for o, value in options.items() if value is not None}
        if partner in choices and choices.setdefault("counterpart", choices[partner]) != choices.pop(partner):
            problems.append(
                f"the reset options 'counterpart' and {partner!r} mean the same, but name different counterparts; "
                "give one of them"
            )
        if problems:
            raise EnvError("\n".join(problems))
        if self.split is not None and "context_id" not in choices:
            choices.setdefault("split", self.split)
        return choices

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Adds the agent's message and the counterpart's reply; returns Gymnasium's five values."""
        return run(self.step_async(action))

    async def step_async(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Like ``step``, for callers in an event loop."""
        self.check_action(action)
        self._need_conversation(self.core.over)
        with _as_gym_error():
            result = await self.core.step(action)
        self._show()
        return result

    def check_action(self, action: object) -> None:
        """Checks that ``action`` is a valid message.

        Raises:
            gymnasium.error.InvalidAction: it is not.
        """
        if not isinstance(action, str):
            raise gym.error.InvalidAction(f"action: expected a message (str), got {type(action).__name__}")
        if not self.action_space.contains(action):
            limit = self.action_space.max_length  # type: ignore[attr-defined]
            raise gym.error.InvalidAction(f"action: expected at most {limit} characters, got {len(action)}")

    def render(self) -> str | None:
        """Returns the transcript ("ansi") or prints its new messages ("human")."""
        if self.render_mode == "human":
            self._show()
            return None
        return "\n".join(self._lines())

    def close(self) -> None:
        """Stops serving the models of ``config``; forks of this env cannot be used afterwards. Safe to call twice."""
        self._release()

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a JSON-able dictionary."""
        self._need_conversation(not self.core.begun)
        return self.core.snapshot()

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Restores a snapshot and returns its observation; with another ``seed`` the counterpart's replies differ."""
        with _as_gym_error():
            observation = self.core.restore(snapshot, seed)
        self._shown = min(self._shown, len(observation))
        return observation

    def fork(self, n: int | None = None, *, seeds: Sequence[int | None] | None = None) -> list[ConversationEnv]:
        """Returns independent envs that continue from this point.

        Args:
            n: the number of envs; each continues under its own seed, derived from this conversation's.
            seeds: one seed per env, instead of ``n``. Equal seeds continue equally; None continues as this env would.
        """
        if (n is None) == (seeds is None) or (n is not None and n < 0):
            raise EnvError(f"fork: expected either n (0 or more) or seeds, got n={n} and seeds={seeds}")
        self._need_conversation(not self.core.begun)
        if seeds is None:
            seeds = [derive_seed(self.core.state.seed, "fork", i) for i in range(n or 0)]
        forks = [self._with_core(core) for core in self.core.fork(seeds)]
        for fork in forks:
            fork._np_random, fork._np_random_seed = gym.utils.seeding.np_random(fork.core.state.seed)
        return forks

    def sibling(self) -> ConversationEnv:
        """Returns another env with the same settings, before its first reset."""
        other = self._with_core(self.core.sibling())
        other._np_random, other._np_random_seed, other._shown = None, None, 0
        return other

    def _with_core(self, core: ConversationCore) -> ConversationEnv:
        other = copy.copy(self)
        other.core = core
        other._release = _nothing  # the original env owns the models
        other.observation_space, other.action_space = Messages(), Utterances()
        return other

    def _need_conversation(self, missing: bool) -> None:
        if missing:
            raise gym.error.ResetNeeded("no conversation is in progress: call reset() first")

    def _lines(self) -> list[str]:
        return [f"{t.role}: {t.utterance.text}" for t in self.core.state.turns] if self.core.begun else []

    def _show(self) -> None:
        if self.render_mode != "human":
            return
        lines = self._lines()
        for line in lines[self._shown :]:
            print(line)
        self._shown = len(lines)
