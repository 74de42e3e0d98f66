"""The conversation environment's core: an agent in one seat, the counterpart in the other. Its API is async.

``seat="chatbot"``: the agent is the chatbot and the counterpart a simulated user (downstream RL, evaluation).
``seat="user"``: the agent is the user simulator and the counterpart a chatbot (adversarial training, reward Eq. 4).
*terminated* means that the user left or the session was concluded; *truncated* means that a cap ended it.

``rlenv.env.collect`` steps this core for many episodes; ``rlenv.env.gym`` is its synchronous Gymnasium interface.
Independent of engines, Ray and files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from rlenv.core.errors import ConfigError, OverlongError, there_are
from rlenv.core.protocols import Reward, Speaker
from rlenv.core.types import ROLE_OF_SEAT, ConversationState, End, Message, Seat, Utterance
from rlenv.env.conversation import Limits, apply, begin, reply_seed
from rlenv.env.ensemble import Ensemble
from rlenv.env.provenance import Provenance, SpeakerCard, describe, origin_of, shares_by_key, so_far
from rlenv.env.rewards import misfits
from rlenv.env.scenarios import Scenario, Scenarios

Observation = tuple[Message, ...]


class ConversationCore:
    """One conversation at a time, with an agent in ``seat`` and one of ``counterparts`` in the other.

    Args:
        scenarios: the starting points; ``reset`` draws one by its seed unless the caller chooses.
        counterparts: speakers for the other seat, by name; ``reset`` draws one by its seed unless the caller chooses.
            The draw is uniform, or has the weights of an ``Ensemble``.
        seat: the agent's seat.
        limits: when a conversation is truncated.
        reward: the reward of a step; None means 0.
        agent: a description of the agent for the record of the episode (``Provenance``), where the adapter of the
            agent's messages is added to it.

    Raises:
        ConfigError: no scenario, no counterpart, or a reward that is not defined for the agent's seat.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario] | Scenarios,
        counterparts: Mapping[str, Speaker],
        seat: Seat,
        limits: Limits = Limits(),
        reward: Reward | None = None,
        agent: SpeakerCard = SpeakerCard(name="agent"),
    ) -> None:
        self.scenarios = scenarios if isinstance(scenarios, Scenarios) else Scenarios(scenarios)
        self.counterparts = counterparts if isinstance(counterparts, Ensemble) else Ensemble(counterparts)
        self.seat: Seat = seat
        self.limits = limits
        self.reward = reward
        self.agent = agent
        self._shares = shares_by_key(self.counterparts)
        if reward is not None and (problems := misfits(reward, seat)):
            raise ConfigError("\n".join(f"reward: {problem}" for problem in problems))
        self._clear()

    def _clear(self) -> None:
        self._state: ConversationState | None = None
        self._counterpart_name = ""
        self._drawn = False
        self._seeds: tuple[int, ...] = ()
        self._began = 0.0
        self._origin: Provenance | None = None
        self._observed: Observation = ()

    @property
    def state(self) -> ConversationState:
        """The current conversation."""
        if self._state is None:
            raise ConfigError("no conversation yet: call reset first")
        return self._state

    @property
    def begun(self) -> bool:
        """True after the first reset or restore."""
        return self._state is not None

    @property
    def over(self) -> bool:
        """True if no message can follow: before the first reset and after the end of a conversation."""
        return self._state is None or self._state.end is not None

    @property
    def world_name(self) -> str:
        """Name of the current conversation's counterpart; empty before the first reset."""
        return self._counterpart_name

    async def reset(
        self,
        *,
        seed: int,
        context_id: str | None = None,
        persona: str | None = None,
        split: str | None = None,
        counterpart: str | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a conversation and returns (observation, info).

        If the counterpart has the first message, the observation contains it; otherwise it is empty.

        Args:
            seed: determines every random draw of the episode.
            context_id: the context to use; None draws one.
            persona: a user's id; the context is drawn among this user's.
            split: a split of the data, such as "train"; the context is drawn from it.
            counterpart: name of the counterpart; None draws one.

        Raises:
            ConfigError: the context, persona, split or counterpart does not exist.
        """
        self._clear()
        scenario = self.scenarios.choose(seed, context_id=context_id, persona=persona, split=split)
        self._seat_counterpart(
            self.counterparts.draw(seed) if counterpart is None else counterpart, drawn=counterpart is None
        )
        self._begin(begin(scenario.context_id, scenario.context, opener=scenario.opener, seed=seed), (seed,))
        try:
            await self._counterpart_speaks()
        except BaseException:
            self._clear()
            raise
        return self.observe(), self.info({})

    async def step(self, action: str | Utterance) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Adds the agent's message and the counterpart's reply; returns Gymnasium's five values.

        They are (observation, reward, terminated, truncated, info). If a step fails (the counterpart's engine died, the
        reward's judge cannot be reached), the conversation is unchanged and the step can be repeated.

        Raises:
            ConfigError: there is no conversation yet, or it has ended.
        """
        before = self.state
        if before.end is not None:
            raise ConfigError("the conversation has ended: call reset first")
        utterance = action if isinstance(action, Utterance) else Utterance(text=action)
        try:
            self._state = apply(before, utterance, self.limits)
            await self._counterpart_speaks()
            parts = await self.reward(before, self.state) if self.reward else {}
        except BaseException:
            self._state = before
            raise
        end = self.state.end
        terminated = end is not None and not end.truncated
        truncated = end is not None and end.truncated
        return self.observe(), float(sum(parts.values())), terminated, truncated, self.info(parts)

    async def ask(self, speaker: Speaker) -> Utterance | None:
        """Returns the next message of ``speaker``; None if a cap ended the conversation instead.

        Two caps can do so: the model's maximum length, if the prompt no longer fits, and the wall-clock cap, which also
        counts the time spent waiting for a reply.
        """
        left = self.seconds_left()
        if left is None or left > 0:
            try:
                async with asyncio.timeout(left) as clock:
                    return await speaker.reply(self.state, reply_seed(self.state))
            except OverlongError:
                self.truncate("max_tokens")
                return None
            except TimeoutError:
                if not clock.expired():  # raised by the speaker, not by our clock
                    raise
        self.truncate("max_seconds")
        return None

    async def _counterpart_speaks(self) -> None:
        """Adds the counterpart's message if it is its turn, and ends the conversation if a cap is reached."""
        if self.state.end is None and self.state.next_role() != ROLE_OF_SEAT[self.seat]:
            reply = await self.ask(self.counterparts[self._counterpart_name])
            if reply is not None:
                self._state = apply(self.state, reply, self.limits)
        left = self.seconds_left()
        if self.state.end is None and left is not None and left <= 0:
            self.truncate("max_seconds")

    def seconds_left(self) -> float | None:
        """Returns the seconds left until the wall-clock cap, 0 or less once it is reached; None without a cap."""
        cap = self.limits.max_seconds
        return None if cap is None else self._began + cap - time.monotonic()

    def truncate(self, reason: str) -> None:
        """Ends the conversation as truncated; ``reason`` is one of those of ``End``, such as "max_seconds"."""
        end = End.model_validate({"by": "limit", "reason": reason})
        self._state = self.state.model_copy(update={"end": end})

    def observe(self) -> Observation:
        """Returns the conversation as role-tagged messages."""
        new = self.state.turns[len(self._observed) :]
        self._observed += tuple(Message(role=t.role, content=t.utterance.text) for t in new)
        return self._observed

    def info(self, rewards: Mapping[str, float]) -> dict[str, Any]:
        """Returns Gymnasium's info: ids, seed, who ended the conversation and why, the parts of the reward, provenance.

        ``token_ids`` and ``adapter`` (a digest) are those of the last message, the counterpart's or the agent's.
        """
        state = self.state
        last = state.turns[-1].utterance if state.turns else None
        return {
            "context_id": state.context_id,
            "seed": state.seed,
            "counterpart": self._counterpart_name,
            "num_user_turns": state.num_user_turns,
            "token_ids": last.token_ids if last else (),
            "adapter": last.adapter.digest if last and last.adapter else None,
            "ended_by": state.end.by if state.end else None,
            "end_reason": state.end.reason if state.end else None,
            "rewards": dict(rewards),
            "provenance": self.provenance(),
        }

    def provenance(self) -> Provenance:
        """Returns the conversation's provenance so far, including how it ended if it has."""
        state = self.state
        assert self._origin is not None
        return so_far(self._origin, state)

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a small JSON-able dictionary; an env with the same counterpart can restore it."""
        state = self.state.model_dump(mode="json")
        return {"counterpart": self._counterpart_name, "drawn": self._drawn, "seeds": list(self._seeds), "state": state}

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Restores a snapshot and returns the observation at that point.

        With the snapshot's own seed the counterpart continues as it would have; with another ``seed`` it continues
        differently. The wall clock starts again.

        Raises:
            ConfigError: not a valid snapshot, or its counterpart does not exist in this env.
        """
        missing = sorted({"counterpart", "drawn", "seeds", "state"} - set(snapshot))
        if missing:
            raise ConfigError(f"not a snapshot of this env: missing {', '.join(missing)}; pass a result of snapshot()")
        try:
            state = ConversationState.model_validate(snapshot["state"])
        except ValidationError as error:
            places = sorted({".".join(map(str, d["loc"])) for d in error.errors(include_input=False)})
            raise ConfigError(
                f"not a valid snapshot for this version of rlenv: problems at {', '.join(places)}; restore it with the "
                "version that made it, or start again with reset"
            ) from None
        self._seat_counterpart(snapshot["counterpart"], drawn=snapshot["drawn"])
        if seed is None:
            self._begin(state, tuple(snapshot["seeds"]))
        else:
            self._begin(state.model_copy(update={"seed": seed}), (*snapshot["seeds"], seed))
        return self.observe()

    def _seat_counterpart(self, name: str, drawn: bool) -> None:
        if name not in self.counterparts:
            raise ConfigError(f"no counterpart {name!r}; {there_are(list(self.counterparts), name)}")
        self._counterpart_name, self._drawn = name, drawn

    def _begin(self, state: ConversationState, seeds: tuple[int, ...]) -> None:
        self._state, self._seeds, self._began, self._observed = state, seeds, time.monotonic(), ()
        self._origin = origin_of(
            state,
            seat=self.seat,
            agent=self.agent,
            counterpart=describe(self.counterparts[self._counterpart_name]),
            drawn_from=self._shares if self._drawn else None,
            user_id=self.scenarios.user_of(state.context_id),
            seeds=seeds,
        )

    def fork(self, seeds: Sequence[int | None]) -> list[ConversationCore]:
        """Returns one env per seed, each continuing from this point; None keeps this conversation's seed."""
        copies = []
        for seed in seeds:
            copy = self.sibling()
            copy.restore(self.snapshot(), seed)
            copies.append(copy)
        return copies

    def sibling(self) -> ConversationCore:
        """Returns another env over the same scenarios, counterparts, limits and reward, before its first reset."""
        other = object.__new__(ConversationCore)
        other.__dict__.update(self.__dict__)
        other._clear()
        return other
