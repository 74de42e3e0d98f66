"""Records which speakers took part in an episode, in which version and with which settings.

Scores measured with different simulators are not comparable, so results are pooled only if every episode had the same
simulator (``check_poolable``). Independent of models: speakers describe themselves.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from rlenv.core.errors import ConfigError
from rlenv.core.files import to_line
from rlenv.core.protocols import Speaker
from rlenv.core.types import ROLE_OF_SEAT, ConversationState, EndedBy, Record, Sampling, Seat, SessionContext
from rlenv.env.ensemble import Ensemble
from rlenv.version import __version__

SpeakerKind = Literal["engine", "endpoint", "callable", "population", "scripted", "unknown"]


class SpeakerCard(Record):
    """A speaker's description, as its method ``describe`` returns it."""

    name: str
    kind: SpeakerKind = "unknown"
    version: str = ""
    """Changes whenever the speaker's behaviour does: an adapter's version (base, it1, ...) or a program's version."""
    adapter_digest: str | None = None
    """SHA-256 of the LoRA adapter's files."""
    model: str | None = None
    """The checkpoint, or its name at an endpoint."""
    sampling: Sampling | None = None
    """Sampling settings; the seed differs for every reply and is not part of them."""
    resampled_from: int | None = None
    """Candidates that each message is drawn from, by a discriminator; None if it is sampled once."""

    @property
    def key(self) -> str:
        """Equal for speakers whose results may be pooled: kind, name, version, model, weights and number of candidates,
        but not sampling."""
        drawn = f"of-{self.resampled_from}" if self.resampled_from else ""
        parts = (self.kind, self.name, self.version, self.model or "", (self.adapter_digest or "")[:12], drawn)
        return " ".join(part for part in parts if part)


class Provenance(Record):
    """Origin and end of one episode. A function of seeds and actions, so it contains no clock time."""

    simulator: SpeakerCard
    """The speaker in the user's seat."""
    chatbot: SpeakerCard
    seat: Seat
    """The agent's seat."""
    drawn_from: dict[str, float] | None = None
    """``SpeakerCard.key`` to share for every candidate if the counterpart was drawn; None if it was requested."""
    context_id: str
    context_digest: str
    """SHA-256 of the context's JSON, hexadecimal."""
    user_id: str = ""
    """The user (persona) whose context it is."""
    seeds: tuple[int, ...]
    """The conversation's seed, then the seed of every fork that changed it. The last one is in use."""
    num_user_turns: int = 0
    num_messages: int = 0
    num_tokens: int = 0
    """Sampled tokens of both seats."""
    ended_by: EndedBy | None = None
    end_reason: str | None = None
    rlenv_version: str = ""

    @property
    def simulator_key(self) -> str:
        """Equal for results that may be pooled: the key of the simulator, or of the ensemble that it was drawn from."""
        if self.seat == "user" or self.drawn_from is None:
            return self.simulator.key
        return "ensemble of " + ", ".join(f"{share:.3g} {key}" for key, share in sorted(self.drawn_from.items()))


def describe(speaker: Speaker) -> SpeakerCard:
    """Returns a speaker's description; only its name if it has no method ``describe``."""
    own = getattr(speaker, "describe", None)
    return own() if own is not None else SpeakerCard(name=speaker.name)


def shares_by_key(ensemble: Ensemble) -> dict[str, float] | None:
    """Returns ``Provenance.drawn_from`` for episodes that draw from ``ensemble``; None if only one can be drawn."""
    shares: dict[str, float] = {}
    for name, speaker in ensemble.items():
        key = describe(speaker).key
        shares[key] = shares.get(key, 0.0) + ensemble.shares[name]
    drawn = {key: share for key, share in shares.items() if share > 0}
    return drawn if len(drawn) > 1 else None


def origin_of(
    state: ConversationState,
    *,
    seat: Seat,
    agent: SpeakerCard,
    counterpart: SpeakerCard,
    drawn_from: dict[str, float] | None,
    user_id: str,
    seeds: tuple[int, ...],
) -> Provenance:
    """Returns the provenance of a conversation that begins: the part that does not change later; see ``so_far``.

    Args:
        state: the conversation.
        seat: the agent's seat.
        agent: the agent's description.
        counterpart: the counterpart's description.
        drawn_from: see ``Provenance``.
        user_id: see ``Provenance``.
        seeds: see ``Provenance``.
    """
    return Provenance(
        simulator=agent if seat == "user" else counterpart,
        chatbot=counterpart if seat == "user" else agent,
        seat=seat,
        drawn_from=drawn_from,
        context_id=state.context_id,
        context_digest=context_digest(state.context),
        user_id=user_id,
        seeds=seeds,
        rlenv_version=rlenv_version(),
    )


def so_far(origin: Provenance, state: ConversationState) -> Provenance:
    """Returns a conversation's current provenance; the agent's version is that of its last message's adapter.

    It must be cheap: every step of the env calls it.
    """
    update: dict[str, object] = {
        "num_user_turns": state.num_user_turns,
        "num_messages": len(state.turns),
        "num_tokens": sum([len(t.utterance.token_ids) for t in state.turns]),
    }
    if state.end is not None:
        update |= {"ended_by": state.end.by, "end_reason": state.end.reason}
    own = next((t.utterance for t in reversed(state.turns) if t.role == ROLE_OF_SEAT[origin.seat]), None)
    if own is not None and own.adapter is not None:
        name = "simulator" if origin.seat == "user" else "chatbot"
        agent: SpeakerCard = getattr(origin, name)
        if agent.adapter_digest != own.adapter.digest or agent.version != own.adapter.name:
            agent = agent.model_copy(update={"version": own.adapter.name, "adapter_digest": own.adapter.digest})
            update[name] = agent
    return origin.model_copy(update=update)


def check_poolable(provenances: Iterable[Provenance | None], allow_mixed: bool = False) -> None:
    """Checks that results may be pooled: every episode had the same simulator, or the same ensemble and weights.

    Args:
        provenances: one per episode; None if unknown, which counts as a simulator of its own.
        allow_mixed: allow different simulators.

    Raises:
        ConfigError: there are several simulators; the message has the number of episodes of each.
    """
    counts = Counter("an unknown simulator" if p is None else p.simulator_key for p in provenances)
    if len(counts) > 1 and not allow_mixed:
        listed = "; ".join(f"{number} of {key}" for key, number in sorted(counts.items()))
        raise ConfigError(
            f"cannot pool episodes of {len(counts)} different simulators: {listed}. Results of different "
            "simulators are not comparable; evaluate them separately, or pass allow_mixed=True"
        )


def context_digest(context: SessionContext) -> str:
    """Returns the SHA-256 of a context's JSON, hexadecimal."""
    # pydantic's own JSON rejects lone surrogates, which occur in people's messages
    return hashlib.sha256(to_line(context.model_dump(mode="json"))).hexdigest()


def rlenv_version() -> str:
    """Returns the version of this package, which is also that of its scripted speakers."""
    return __version__
