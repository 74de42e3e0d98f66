"""Words a user's message: picks unused lines, fills the slots, introduces each person once.

The content of the message is chosen by ``rlenv.population.users.replies``.
"""

from __future__ import annotations

from random import Random

from rlenv.population.grammar import render
from rlenv.population.users.traits import Traits
from rlenv.population.wording import Fact, pool

_NAMELESS = ("mom", "dad", "mother", "father", "grandmother", "landlord", "doctor", "teacher", "tutor", "neighbour")
_PEOPLE = {"he": "who", "him": "who", "his": "who", "fhe": "friend", "fhim": "friend", "fhis": "friend"}


class Voice:
    """The wording of one message of a user.

    Args:
        traits: the user's traits.
        rng: the random generator of this message.
        used: lines already used in this session.
        named: people already introduced.
    """

    def __init__(self, traits: Traits, rng: Random, used: tuple[str, ...] = (), named: tuple[str, ...] = ()) -> None:
        self.traits = traits
        self.rng = rng
        self.used = list(used)
        self.named = list(named)
        self._in_line: set[str] = set()

    def say(self, name: str) -> str:
        """Returns a line of a pool of reactions.yaml, an unused one if there is any."""
        return self._line(name, pool("reactions.yaml", name))

    def tell(self, fact: Fact) -> str:
        """Returns a wording of a fact; users of few words choose a short one."""
        return self._line(fact.fact_id, fact.lines)

    def habit(self, name: str) -> str:
        """Returns one of the user's stock phrases of a pool: ``fillers``, ``links`` or ``inner_links``."""
        index = self.rng.choice(getattr(self.traits, name))
        return render(pool("reactions.yaml", name)[index], self.rng, self.slot)

    def _line(self, key: str, lines: tuple[str, ...]) -> str:
        free = [i for i in range(len(lines)) if f"{key}:{i}" not in self.used] or list(range(len(lines)))
        if self.traits.words < 12 and len(free) > 1:
            free = sorted(free, key=lambda i: len(lines[i]))[: max(1, len(free) // 2)]
        index = self.rng.choice(free)
        self.used.append(f"{key}:{index}")
        self._in_line = set()
        return render(lines[index], self.rng, self.slot)

    def slot(self, name: str) -> str:
        """Returns the value of a slot at this point of the session."""
        if name in _PEOPLE and _PEOPLE[name] not in self.named:
            mention = self._mention(_PEOPLE[name])
            return f"{mention}'s" if name in ("his", "fhis") else mention
        if name in ("who", "friend", "petname"):
            return self._mention(name)
        return self.traits.slots[name]

    def _mention(self, person: str) -> str:
        slots = self.traits.slots
        first = person not in self.named
        if first:
            self.named.append(person)
        if person == "petname":
            return f"my {slots['pet']} {slots['petname']}" if first else slots["petname"]
        if person == "friend":
            return f"my friend {slots['friend']}" if first else slots["friend"]
        role, name = f"my {slots['role']}", slots["who_name"]
        if slots["role"] in _NAMELESS:
            return role
        if first:
            return f"{role} {name}"
        return name if self.rng.random() < 0.55 else role
