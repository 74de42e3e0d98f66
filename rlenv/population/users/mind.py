"""The hidden state of a ``PopulationUser`` during a conversation: mood, trust, patience, and what was disclosed.

It is a frozen record that is passed on as JSON in ``Utterance.memory``.
"""

from __future__ import annotations

from rlenv.core.seeds import derive_seed
from rlenv.core.types import ConversationState, Record
from rlenv.population.users.traits import Traits, traits_of


class Mind(Record):
    """A user's hidden state after one of their messages. Levels are in [0, 1]."""

    user: int
    session: int
    seed: int
    trust: float
    mood: float
    patience: float
    eased: float = 0.0
    """How far the user's goal for this session has been reached."""
    told: tuple[str, ...] = ()
    """Ids of the facts disclosed, in order."""
    used: tuple[str, ...] = ()
    """Lines already used, as ``pool:index``."""
    named: tuple[str, ...] = ()
    """Slot names of the people already introduced."""
    leaving: int = 0
    """How often the user has announced that they must leave."""
    risk_told: bool = False
    """The user has disclosed thoughts of suicide."""
    vulnerable: bool = False
    """The last message disclosed a feeling or something painful."""
    last: tuple[str, ...] = ()
    """The reactions in the last message."""
    heard: int = 0
    """Number of chatbot messages read so far."""
    issues: tuple[str, ...] = ()
    """Issues of the last chatbot message read (Appendix E)."""

    @property
    def traits(self) -> Traits:
        return traits_of(self.user, self.seed)


def mind_of(state: ConversationState, seed: int) -> Mind:
    """Returns the user's hidden state before their next message.

    At the start of a conversation, user, session and seed are read from the context's field ``population``. Without
    that field, the user is drawn by the conversation's seed.
    """
    if state.user_memory is not None:
        return Mind.model_validate(state.user_memory)
    origin = (state.context.model_extra or {}).get("population")
    if not isinstance(origin, dict):
        origin = {"user": derive_seed("population-born", state.seed, seed) % 1_000_000, "session": 0, "seed": 0}
    return newborn(int(origin["user"]), int(origin.get("session", 0)), int(origin.get("seed", 0)))


def newborn(user: int, session: int, seed: int) -> Mind:
    """Returns a user's hidden state at the start of a session."""
    traits = traits_of(user, seed)
    trust = min(0.9, traits.trust + 0.05 * min(session, 4))
    return Mind(user=user, session=session, seed=seed, trust=trust, mood=0.3, patience=0.4 + 0.5 * traits.patience)


def level(value: float) -> float:
    """Returns the value clipped to [0, 1] and rounded, which keeps memories short."""
    return round(min(1.0, max(0.0, value)), 3)
