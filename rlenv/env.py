"""The conversation environment's core: an agent in one seat, the world in the other. Async, one code path.

``seat="chatbot"``: the agent is the chatbot and a simulated user is the world (downstream RL, evaluation).
``seat="user"``: the agent is the user simulator and a chatbot is the world (adversarial training, reward Eq. 4).
*terminated* means that the user left or the session concluded, *truncated* that a cap cut it.

Sessions are collected by stepping this (``rlenv.collect``); ``rlenv.gym_env`` is its synchronous Gymnasium face.
Knows nothing of engines, Ray or files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rlenv.conversation import Limits, apply, begin, reply_seed
from rlenv.errors import ConfigError, OverlongError
from rlenv.protocols import Reward, Speaker
from rlenv.reward_registry import misfits
from rlenv.seeds import derive_seed
from rlenv.types import (
    ROLE_OF_SEAT,
    ConversationState,
    End,
    Message,
    Record,
    Role,
    Seat,
    Session,
    SessionContext,
    Utterance,
)

Observation = tuple[Message, ...]


class Scenario(Record):
    """What a conversation starts from: a context of the data, and who speaks first."""

    context_id: str
    user_id: str
    context: SessionContext
    opener: Role = "user"

    @classmethod
    def of_session(cls, session: Session, opener: Role | None = None) -> Scenario:
        """Returns the scenario of a real session; without ``opener``, whoever opened it opens again."""
        first = session.messages[0].role if session.messages else "user"
        return cls(
            context_id=session.session_id,
            user_id=session.user_id,
            context=session.context,
            opener=opener or first,
        )


class ConversationCore:
    """One conversation at a time, with an agent in ``seat`` and ``world`` in the other.

    Args:
        scenarios: what to reset to; sampled under the seed unless one is asked for.
        world: who sits in the other seat, by name; one is drawn under the seed unless one is asked for.
        seat: the agent's.
        limits: when a conversation is cut.
        reward: what a step is worth; None gives 0.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        world: Mapping[str, Speaker],
        seat: Seat,
        limits: Limits = Limits(),
        reward: Reward | None = None,
    ) -> None:
        if not scenarios:
            raise ConfigError("a conversation env needs at least one scenario, got none")
        if not world:
            raise ConfigError("a conversation env needs someone in the other seat, got nobody")
        self.scenarios = list(scenarios)
        self.world = dict(world)
        self.seat: Seat = seat
        self.limits = limits
        self.reward = reward
        if reward is not None and (problems := misfits(reward, seat)):
            raise ConfigError("\n".join(f"reward: {problem}" for problem in problems))
        self._by_id = {s.context_id: s for s in self.scenarios}
        self._state: ConversationState | None = None
        self._world_name = ""
        self._began = 0.0

    @property
    def state(self) -> ConversationState:
        """The conversation as it stands."""
        if self._state is None:
            raise ConfigError("no conversation yet: call reset first")
        return self._state

    @property
    def over(self) -> bool:
        """True where nothing can be said: before the first reset and after an end."""
        return self._state is None or self._state.end is not None

    @property
    def world_name(self) -> str:
        """Who sits in the other seat of the conversation under way."""
        return self._world_name

    async def reset(
        self, *, seed: int, context_id: str | None = None, world: str | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins a conversation, lets the world open it where it does, and returns (observation, info).

        Raises:
            ConfigError: a ``context_id`` or ``world`` that is not there.
        """
        if context_id is None:
            context_id = self.scenarios[derive_seed(seed, "context") % len(self.scenarios)].context_id
        if context_id not in self._by_id:
            raise ConfigError(f"no context {context_id!r} among the env's {len(self.scenarios)}")
        names = sorted(self.world)
        self._world_name = world if world is not None else names[derive_seed(seed, "world") % len(names)]
        if self._world_name not in self.world:
            raise ConfigError(f"nobody is called {self._world_name!r} here; there are {', '.join(names)}")
        scenario = self._by_id[context_id]
        self._began = time.monotonic()
        self._state = begin(context_id, scenario.context, opener=scenario.opener, seed=seed)
        await self._world_speaks()
        return self.observe(), self.info({})

    async def step(self, action: str | Utterance) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The agent says ``action`` and the world answers; returns Gymnasium's five."""
        before = self.state
        if before.end is not None:
            raise ConfigError("this conversation has ended: call reset")
        utterance = action if isinstance(action, Utterance) else Utterance(text=action)
        self._state = apply(before, utterance, self.limits)
        await self._world_speaks()
        parts = await self.reward(before, self.state) if self.reward else {}
        end = self.state.end
        terminated = end is not None and not end.truncated
        truncated = end is not None and end.truncated
        return self.observe(), float(sum(parts.values())), terminated, truncated, self.info(parts)

    async def _world_speaks(self) -> None:
        """Lets the world say its message if it is its turn; a cap that is reached ends the conversation."""
        state = self.state
        if state.end is None and state.next_role() != ROLE_OF_SEAT[self.seat]:
            try:
                said = await self.world[self._world_name].reply(state, reply_seed(state))
                self._state = apply(state, said, self.limits)
            except OverlongError:
                self.truncate("max_tokens")
        cap = self.limits.max_seconds
        if self.state.end is None and cap is not None and time.monotonic() - self._began > cap:
            self.truncate("max_seconds")

    def truncate(self, reason: str) -> None:
        """Ends the conversation by a cap."""
        end = End.model_validate({"by": "limit", "reason": reason})
        self._state = self.state.model_copy(update={"end": end})

    def observe(self) -> Observation:
        """Returns the conversation as role-tagged messages."""
        return tuple(Message(role=t.role, content=t.utterance.text) for t in self.state.turns)

    def info(self, rewards: Mapping[str, float]) -> dict[str, Any]:
        """Returns what is known beside the observation: ids, seeds, who ended it and why, the reward's parts."""
        state = self.state
        last = state.turns[-1].utterance if state.turns else None
        return {
            "context_id": state.context_id,
            "seed": state.seed,
            "world": self._world_name,
            "num_user_turns": state.num_user_turns,
            "token_ids": last.token_ids if last else (),
            "adapter": last.adapter.digest if last and last.adapter else None,
            "ended_by": state.end.by if state.end else None,
            "end_reason": state.end.reason if state.end else None,
            "rewards": dict(rewards),
        }

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a JSON-able dictionary, small and enough to continue it anywhere."""
        return {"world": self._world_name, "state": self.state.model_dump(mode="json")}

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Continues a snapshot from where it was taken; returns the observation there.

        With the snapshot's own seed the world goes on as it would have; another ``seed`` makes it go on
        differently from this point.
        """
        state = ConversationState.model_validate(snapshot["state"])
        self._state = state if seed is None else state.model_copy(update={"seed": seed})
        self._world_name = snapshot["world"]
        self._began = time.monotonic()
        return self.observe()

    def fork(self, seeds: Sequence[int | None]) -> list[ConversationCore]:
        """Returns an env for each seed that stands where this one does; None keeps this conversation's seed."""
        copies = []
        for seed in seeds:
            copy = self.sibling()
            copy.restore(self.snapshot(), seed)
            copies.append(copy)
        return copies

    def sibling(self) -> ConversationCore:
        """Returns another env over the same scenarios, world, limits and reward, before its first reset."""
        other = object.__new__(ConversationCore)
        other.__dict__.update(self.__dict__, _state=None, _world_name="", _began=0.0)
        return other
