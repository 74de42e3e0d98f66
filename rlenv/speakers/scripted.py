"""Seeded stand-ins for every protocol, without a model. For tests, dry runs and load tests.

    ScriptedEngine          tokens drawn from (prompt, seed, adapter), with a long-tailed latency
    ScriptedDiscriminator   log-odds that are a causal function of the texts
    ScriptedJudge           labels and a score that are a function of the texts
    ScriptedUser            leaves after a while
    ScriptedChatbot         never leaves

Every result is a function of the arguments and a seed, without state: the same on every machine and in any call order.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.protocols import Engine
from rlenv.core.seeds import derive_seed
from rlenv.core.settings import Settings, settings
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import (
    ROLE_OF_SEAT,
    Adapter,
    Annotation,
    Branch,
    ConversationState,
    Generation,
    Sampling,
    Seat,
    Session,
    SessionScores,
    Utterance,
)
from rlenv.env.provenance import SpeakerCard, rlenv_version

LINES: Mapping[Seat, tuple[str, ...]] = {
    "user": (
        "I slept badly again.",
        "It is mostly work, I think.",
        "I don't know.",
        "Maybe. I had not seen it that way.",
        "My sister says the same.",
        "Can we talk about something else?",
        "That helps a little.",
        "I tried that and it did not help.",
    ),
    "chatbot": (
        "That sounds hard. What happened?",
        "How long has this been going on?",
        "What would make today a little easier?",
        "Thank you for telling me.",
        "You said it is mostly work. Tell me more.",
        "What have you tried so far?",
    ),
}


@settings
class Latency(Settings):
    """The latency of a stand-in: log-normal, with occasional stragglers. The default is none."""

    median_s: float = Field(default=0.0, ge=0)
    """Median latency of a reply, in seconds."""
    sigma: float = Field(default=0.5, ge=0)
    """Standard deviation of the logarithm of the latency."""
    straggler_rate: float = Field(default=0.02, ge=0, le=1)
    """Share of replies that take ``straggler_factor`` times as long."""
    straggler_factor: float = Field(default=20.0, ge=1)
    """Factor by which a straggler takes longer."""

    def seconds(self, seed: int) -> float:
        """Returns the latency of a reply with ``seed``, in seconds.

        >>> Latency().seconds(7)
        0.0
        """
        if not self.median_s:
            return 0.0
        rng = np.random.default_rng(seed)
        slow = self.straggler_factor if rng.random() < self.straggler_rate else 1.0
        return self.median_s * slow * math.exp(self.sigma * rng.standard_normal())

    async def wait(self, seed: int) -> None:
        """Waits for the latency of a reply with ``seed``."""
        seconds = self.seconds(seed)
        if seconds:
            await asyncio.sleep(seconds)


@dataclass(frozen=True)
class EngineScript:
    """How a ``ScriptedEngine`` replies."""

    mean_tokens: float = 12.0
    """Mean length of a reply in tokens before any cap (geometric distribution)."""
    end_rate: float = 0.1
    """Share of finished replies that end with the last stop token (end of session) instead of the first."""
    latency: Latency = Latency()
    """Latency of a reply."""
    seed: int = 0
    """A different seed acts as a different model."""


class ScriptedEngine(Engine):
    """An ``Engine`` without a model: uniform tokens, as a function of prompt, sampling seed and adapter digest.

    At temperature 0 the sampling seed has no effect, as in greedy decoding.

    Args:
        vocabulary: token ids that replies consist of; stop tokens come from the request.
        script: lengths, endings and latency.
        max_model_len: the most tokens of prompt and reply together.
    """

    def __init__(
        self, vocabulary: Sequence[int], script: EngineScript = EngineScript(), max_model_len: int = 1_000_000
    ) -> None:
        if not vocabulary:
            raise ConfigError("a scripted engine needs a vocabulary of at least one token, got none")
        self.vocabulary = tuple(vocabulary)
        self.script = script
        self.max_model_len = max_model_len

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns the continuation, a function of the arguments; see ``rlenv.core.protocols.Engine``."""
        if len(token_ids) + sampling.max_tokens > self.max_model_len:
            raise OverlongError(
                f"a prompt of {len(token_ids)} tokens and a reply of up to {sampling.max_tokens} do not fit the "
                f"engine's {self.max_model_len} positions"
            )
        drawn_under = "greedy" if sampling.temperature == 0 else str(sampling.seed)
        prompt = ",".join(map(str, token_ids))
        seed = derive_seed(self.script.seed, prompt, drawn_under, adapter.digest if adapter else "")
        await self.script.latency.wait(seed)
        rng = np.random.default_rng(seed)
        stops = sampling.stop_token_ids
        words = [t for t in self.vocabulary if t not in stops] or list(self.vocabulary)
        length = int(rng.geometric(1 / max(1.0, self.script.mean_tokens)))
        tokens = [words[i] for i in rng.integers(len(words), size=min(length, sampling.max_tokens))]
        if stops and length < sampling.max_tokens:
            tokens.append(stops[-1] if rng.random() < self.script.end_rate else stops[0])
        elif not stops:
            tokens += [words[i] for i in rng.integers(len(words), size=sampling.max_tokens - len(tokens))]
        stopped = bool(stops) and tokens[-1] in stops
        return Generation(
            token_ids=tuple(tokens),
            logprobs=(-math.log(len(words)),) * len(tokens),
            finish_reason="stop" if stopped else "length",
            adapter=adapter,
        )


class ScriptedDiscriminator:
    """A ``Discriminator`` without a model: each user message changes the log-odds by a normal draw.

    The draw is a function of the messages up to and including this one. So later edits do not change earlier scores,
    and an alternative with the original text has the original score.

    Args:
        seed: a different seed acts as a different discriminator.
        scale: standard deviation of the change per message.
        latency: latency of a call.
    """

    def __init__(self, seed: int = 0, scale: float = 1.0, latency: Latency = Latency()) -> None:
        self.seed = seed
        self.scale = scale
        self.latency = latency

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns log-odds [T + 1] and those of each branch's alternatives; see ``rlenv.core.protocols.Discriminator``.

        Raises:
            IndexError: a branch is at a turn that the session does not have.
        """
        await self.latency.wait(derive_seed(self.seed, session.session_id))
        scores, pasts, past = [0.0], [], ""
        for message in session.messages:
            if message.role == "user":
                pasts.append(past)
                scores.append(scores[-1] + self._move(past, message.content))
            past += f"\x1e{message.role}\x1f{message.content}"
        branched = []
        for branch in branches:
            if branch.turn > len(pasts):
                raise IndexError(f"turn {branch.turn} of session {session.session_id}, which has {len(pasts)}")
            before = pasts[branch.turn - 1]
            branched.append(tuple(scores[branch.turn - 1] + self._move(before, text) for text in branch.texts))
        return SessionScores(session_id=session.session_id, log_odds=tuple(scores), branches=tuple(branched))

    def _move(self, past: str, text: str) -> float:
        rng = np.random.default_rng(derive_seed(self.seed, past, text))
        return float(self.scale * rng.standard_normal())


class ScriptedJudge:
    """A ``Judge`` without a model: one label of the taxonomy on some messages, and a score in [0, 1).

    Args:
        seed: a different seed acts as a different judge.
        rate: share of messages with a label.
        latency: latency of a call.
    """

    def __init__(self, seed: int = 0, rate: float = 0.3, latency: Latency = Latency()) -> None:
        self.seed = seed
        self.rate = rate
        self.latency = latency

    async def annotate(self, session: Session) -> Annotation:
        """Returns labels and score; see ``rlenv.core.protocols.Judge``. Later messages change no earlier label."""
        await self.latency.wait(derive_seed(self.seed, session.session_id))
        taxonomy = load_taxonomy()
        known = {"user": taxonomy.action_ids(), "assistant": taxonomy.issue_ids()}
        labels, past = [], str(self.seed)
        for message in session.messages:
            past += f"\x1e{message.role}\x1f{message.content}"
            rng = np.random.default_rng(derive_seed(past))
            ids = known[message.role]
            labels.append((ids[int(rng.integers(len(ids)))],) if rng.random() < self.rate else ())
        score = float(np.random.default_rng(derive_seed("score", past)).random())
        return Annotation(labels=tuple(labels), score=score)


class ScriptedSpeaker:
    """A ``Speaker`` without a model: lines drawn with the seed, and a memory that counts its own messages.

    Args:
        name: the speaker's name in records.
        seat: the seat that it takes.
        leave_rate: probability that one of its messages ends the session.
        latency: latency of a reply.
        fails: returns the error that a reply to the given conversation raises, or None.
    """

    def __init__(
        self,
        name: str,
        seat: Seat,
        leave_rate: float = 0.0,
        latency: Latency = Latency(),
        fails: Callable[[ConversationState], Exception | None] = lambda _: None,
    ) -> None:
        self.name = name
        self.seat = seat
        self.leave_rate = leave_rate
        self.latency = latency
        self.fails = fails

    def describe(self) -> SpeakerCard:
        """Returns the speaker's card for records."""
        return SpeakerCard(name=self.name, kind="scripted", version=rlenv_version())

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the next message, a function of ``state`` and ``seed`` alone."""
        await self.latency.wait(seed)
        error = self.fails(state)
        if error is not None:
            raise error
        texts = [turn.utterance.text for turn in state.turns]
        rng = np.random.default_rng(derive_seed(self.name, seed, *texts))
        lines = LINES[self.seat]
        own = sum(turn.role == ROLE_OF_SEAT[self.seat] for turn in state.turns)
        return Utterance(
            text=lines[int(rng.integers(len(lines)))],
            ends_session=bool(rng.random() < self.leave_rate),
            memory={"num_said": own + 1},
        )


class ScriptedUser(ScriptedSpeaker):
    """A ``UserSimulator`` without a model."""

    def __init__(
        self,
        name: str = "scripted-user",
        leave_rate: float = 0.15,
        latency: Latency = Latency(),
        fails: Callable[[ConversationState], Exception | None] = lambda _: None,
    ) -> None:
        super().__init__(name, "user", leave_rate, latency, fails)


class ScriptedChatbot(ScriptedSpeaker):
    """A ``ChatbotPolicy`` without a model."""

    def __init__(
        self,
        name: str = "scripted-chatbot",
        latency: Latency = Latency(),
        fails: Callable[[ConversationState], Exception | None] = lambda _: None,
    ) -> None:
        super().__init__(name, "chatbot", 0.0, latency, fails)
