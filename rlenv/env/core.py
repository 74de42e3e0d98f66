"""The conversation environment's core: an agent in one seat, the counterpart in the other. Async, one code path.

``seat="chatbot"``: the agent is the chatbot and a simulated user is the counterpart (downstream RL, evaluation).
``seat="user"``: the agent is the user simulator and a chatbot is the counterpart (adversarial training, reward Eq. 4).
*terminated* means that the user left or the session concluded, *truncated* that a cap cut it.

Sessions are collected by stepping this (``rlenv.env.collect``); ``rlenv.env.gym`` is its synchronous Gymnasium face.
Knows nothing of engines, Ray or files.
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
    """One conversation at a time, with an agent in ``seat`` and ``counterparts`` in the other.

    Args:
        scenarios: what to reset to; sampled under the seed unless one is asked for.
        counterparts: who may sit in the other seat, by name; unless one is asked for, one is drawn under the seed, by
            an ``Ensemble``'s weights or else evenly.
        seat: the agent's.
        limits: when a conversation is cut.
        reward: what a step is worth; None gives 0.
        agent: who the agent is, for the record; the adapter that its messages carry is added to it.

    Raises:
        ConfigError: no scenario, nobody in the other seat, or a reward that makes no sense in the agent's.
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
        self._mix = shares_by_key(self.counterparts)
        if reward is not None and (problems := misfits(reward, seat)):
            raise ConfigError("\n".join(f"reward: {problem}" for problem in problems))
        self._forget()

    def _forget(self) -> None:
        self._state: ConversationState | None = None
        self._counterpart_name = ""
        self._drawn = False
        self._seeds: tuple[int, ...] = ()
        self._began = 0.0
        self._origin: Provenance | None = None
        self._observed: Observation = ()

    @property
    def state(self) -> ConversationState:
        """The conversation as it stands."""
        if self._state is None:
            raise ConfigError("no conversation yet: call reset first")
        return self._state

    @property
    def begun(self) -> bool:
        """True from the first reset or restore on."""
        return self._state is not None

    @property
    def over(self) -> bool:
        """True where nothing can be said: before the first reset and after an end."""
        return self._state is None or self._state.end is not None

    @property
    def world_name(self) -> str:
        """Who sits in the other seat of the conversation under way."""
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
        """Begins a conversation, lets the counterpart open it where it does, and returns (observation, info).

        Args:
            seed: all that is random follows from it.
            context_id: the one context; None draws one.
            persona: draws among the contexts of this user.
            split: draws among the contexts of this part of the data.
            counterpart: who sits in the other seat; None draws.

        Raises:
            ConfigError: a context, persona, split or partner that is not there.
        """
        self._forget()
        scenario = self.scenarios.choose(seed, context_id=context_id, persona=persona, split=split)
        self._sit(self.counterparts.draw(seed) if counterpart is None else counterpart, drawn=counterpart is None)
        self._begin(begin(scenario.context_id, scenario.context, opener=scenario.opener, seed=seed), (seed,))
        try:
            await self._world_speaks()
        except BaseException:
            self._forget()
            raise
        return self.observe(), self.info({})

    async def step(self, action: str | Utterance) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The agent says ``action`` and the counterpart answers; returns Gymnasium's five.

        A step that fails (the counterpart's engine died, the reward's judge cannot be reached) leaves the conversation
        where it was, so that it can be taken again.
        """
        before = self.state
        if before.end is not None:
            raise ConfigError("this conversation has ended: call reset")
        utterance = action if isinstance(action, Utterance) else Utterance(text=action)
        try:
            self._state = apply(before, utterance, self.limits)
            await self._world_speaks()
            parts = await self.reward(before, self.state) if self.reward else {}
        except BaseException:
            self._state = before
            raise
        end = self.state.end
        terminated = end is not None and not end.truncated
        truncated = end is not None and end.truncated
        return self.observe(), float(sum(parts.values())), terminated, truncated, self.info(parts)

    async def ask(self, speaker: Speaker) -> Utterance | None:
        """Returns what ``speaker`` says next; None where a cap ended the conversation meanwhile.

        Such a cap is a prompt that no longer fits, or the wall clock, which also runs while the reply is waited for:
        who never answers truncates.
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
                if not clock.expired():  # the speaker's own
                    raise
        self.truncate("max_seconds")
        return None

    async def _world_speaks(self) -> None:
        """Lets the counterpart say its message if it is its turn; a cap that is reached ends the conversation."""
        if self.state.end is None and self.state.next_role() != ROLE_OF_SEAT[self.seat]:
            said = await self.ask(self.counterparts[self._counterpart_name])
            if said is not None:
                self._state = apply(self.state, said, self.limits)
        left = self.seconds_left()
        if self.state.end is None and left is not None and left <= 0:
            self.truncate("max_seconds")

    def seconds_left(self) -> float | None:
        """Returns the seconds until the wall-clock cap, 0 or below once it is reached; None where there is none."""
        cap = self.limits.max_seconds
        return None if cap is None else self._began + cap - time.monotonic()

    def truncate(self, reason: str) -> None:
        """Ends the conversation by a cap."""
        end = End.model_validate({"by": "limit", "reason": reason})
        self._state = self.state.model_copy(update={"end": end})

    def observe(self) -> Observation:
        """Returns the conversation as role-tagged messages."""
        new = self.state.turns[len(self._observed) :]
        self._observed += tuple(Message(role=t.role, content=t.utterance.text) for t in new)
        return self._observed

    def info(self, rewards: Mapping[str, float]) -> dict[str, Any]:
        """Returns what is known beside the observation: ids, seeds, who ended it and why, the reward's parts."""
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
        """Returns what the conversation came from, and how it ended where it did."""
        state = self.state
        assert self._origin is not None
        return so_far(self._origin, state)

    def snapshot(self) -> dict[str, Any]:
        """Returns the conversation as a JSON-able dictionary, small and enough to continue it anywhere."""
        state = self.state.model_dump(mode="json")
        return {"counterpart": self._counterpart_name, "drawn": self._drawn, "seeds": list(self._seeds), "state": state}

    def restore(self, snapshot: Mapping[str, Any], seed: int | None = None) -> Observation:
        """Continues a snapshot from where it was taken; returns the observation there.

        With the snapshot's own seed the counterpart goes on as it would have; another ``seed`` makes it go on
        differently from this point. The wall clock begins anew.

        Raises:
            ConfigError: no snapshot, or one of a conversation with somebody who is not here.
        """
        missing = sorted({"counterpart", "drawn", "seeds", "state"} - set(snapshot))
        if missing:
            raise ConfigError(f"not a snapshot of this env: it has no {', '.join(missing)}")
        try:
            state = ConversationState.model_validate(snapshot["state"])
        except ValidationError as error:
            places = sorted({".".join(map(str, d["loc"])) for d in error.errors(include_input=False)})
            raise ConfigError(f"not a snapshot of this version: problems at {', '.join(places)}") from None
        self._sit(snapshot["counterpart"], drawn=snapshot["drawn"])
        if seed is None:
            self._begin(state, tuple(snapshot["seeds"]))
        else:
            self._begin(state.model_copy(update={"seed": seed}), (*snapshot["seeds"], seed))
        return self.observe()

    def _sit(self, name: str, drawn: bool) -> None:
        if name not in self.counterparts:
            raise ConfigError(f"nobody is called {name!r} here; {there_are(list(self.counterparts), name)}")
        self._counterpart_name, self._drawn = name, drawn

    def _begin(self, state: ConversationState, seeds: tuple[int, ...]) -> None:
        self._state, self._seeds, self._began, self._observed = state, seeds, time.monotonic(), ()
        self._origin = origin_of(
            state,
            seat=self.seat,
            agent=self.agent,
            counterpart=describe(self.counterparts[self._counterpart_name]),
            drawn_from=self._mix if self._drawn else None,
            user_id=self.scenarios.user_of(state.context_id),
            seeds=seeds,
        )

    def fork(self, seeds: Sequence[int | None]) -> list[ConversationCore]:
        """Returns an env for each seed that stands where this one does; None keeps this conversation's seed."""
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
        other._forget()
        return other
