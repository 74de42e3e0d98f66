"""When and how a user ends a session: goal reached, no time left, fed up, or let go by the chatbot.

Knows the hidden state and the acts of the chatbot's last message, nothing of wording.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from rlenv.population.acts import ActSet
from rlenv.population.agenda import untold
from rlenv.population.mind import Mind

Exit = Literal["stay", "announce", "insist", "bye_good", "bye", "bye_bad", "silent"]
"""``announce`` and ``insist`` say that the user must go, and wait; the last four end the session."""


def wants_on(mind: Mind, turn: int) -> bool:
    """Returns whether the user has more to say and time to say it, before message ``turn``."""
    return mind.leaving == 0 and mind.eased < 1.0 and turn < mind.traits.stamina - 1 and len(untold(mind)) > 2


def exit_of(mind: Mind, acts: ActSet | None, turn: int, rng: Random) -> Exit:
    """Returns whether and how the user leaves with message ``turn`` (from 1), after hearing ``acts``."""
    if acts is None or turn == 1:
        return "stay"
    if mind.leaving:
        if "ignores_end" in acts and mind.leaving < 2 and rng.random() < 0.8:
            return "insist"
        if "ignores_end" in acts:
            return "bye_bad" if rng.random() < 0.5 else "silent"
        return "silent" if rng.random() < 0.5 else "bye"
    if (mind.trust < 0.13 or mind.patience < 0.1) and rng.random() < 0.65:
        return "bye_bad" if rng.random() < 0.6 else "silent"
    if "goodbye" in acts and "open_question" not in acts:
        return "bye" if rng.random() < 0.5 else "silent"
    if wants_on(mind, turn):
        return "silent" if turn > 3 and rng.random() < 0.006 else "stay"
    if turn < mind.traits.stamina - 1 and mind.eased < 1.0 and untold(mind) and rng.random() < 0.6:
        return "stay"
    if rng.random() < 0.65 * mind.traits.announces:
        return "announce"
    if rng.random() < 0.15:
        return "silent"
    return "bye_good" if rng.random() < mind.eased + 0.1 else "bye"
