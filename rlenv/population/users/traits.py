"""The hidden traits of a user of the population: drawn by a seed, the same in every session and process.

Independent of conversations; the state that changes during one is in ``rlenv.population.users.mind``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from random import Random

from rlenv.core.errors import there_are
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record
from rlenv.population.grammar import render
from rlenv.population.wording import Concern, concerns, first_names, pool, shared_slots

GOALS = ("vent", "get advice", "understand myself", "make a plan", "get through tonight")
STYLES = ("formal", "plain", "casual", "texting", "rambling")
WORDED: dict[str, tuple[str, ...]] = {"style": STYLES, "goal": GOALS, "concern": ()}
"""Traits in words by which users can be chosen, with their values; the concerns are those of the wording files."""
MEASURED = ("age", "words", "resistance", "openness", "patience", "trust", "hedging", "emoji", "typos", "announces",
            "stamina", "filling")  # fmt: skip
"""Traits in numbers by which users can be chosen."""
PARTNERS = ("wife", "husband", "girlfriend", "boyfriend", "fiance")
_NO_PARTNER = (
    "break_up",
    "relationship_trouble",
    "loneliness",
    "conflict_with_parents",
    "exam_pressure",
    "grief",
    "social_anxiety",
)
_AGES = {
    "exam_pressure": (18, 26),
    "caring_relative": (36, 62),
    "job_loss": (30, 58),
    "anger": (26, 50),
    "new_parent": (24, 40),
}


class Traits(Record):
    """A user's traits. Numbers without a unit are in [0, 1]."""

    name: str
    age: int
    job: str
    concern: str
    goal: str
    role: str
    """Relation of the main person to the user, such as "boss"."""
    style: str
    """Formal, plain, casual, texting or rambling."""
    words: float
    """Typical length of a message, in words."""
    resistance: float
    openness: float
    patience: float
    trust: float
    """Trust before the first message."""
    hedging: float
    emoji: float
    typos: float
    announces: float
    """Probability that the user announces that they must leave, and waits for a reply, before leaving."""
    stamina: float
    """Number of turns that the user intends to stay."""
    fillers: tuple[int, ...]
    """The user's stock phrases, as line indices of the pool."""
    links: tuple[int, ...]
    """The user's favourite words to start messages and sentences, as line indices of the pool."""
    inner_links: tuple[int, ...]
    """The user's favourite words to continue a message, as line indices of the pool."""
    filling: float
    """How often the user uses these phrases and words."""
    at_risk: bool
    """The user has thoughts of suicide."""
    slots: dict[str, str]
    """The user's fixed facts: names, pronouns, places, times."""

    @property
    def about(self) -> Concern:
        return concerns()[self.concern]


_FACTORS: ContextVar[tuple[tuple[str, float], ...]] = ContextVar("factors", default=())


@contextmanager
def scaled(factors: Mapping[str, float]) -> Iterator[None]:
    """All users within the block are of another kind: their traits in numbers are multiplied by ``factors``."""
    token = _FACTORS.set(tuple(sorted(factors.items())))
    try:
        yield
    finally:
        _FACTORS.reset(token)


def traits_of(user: int, seed: int) -> Traits:
    """Returns the traits of user ``user`` of the population ``seed``, a function of the two alone and of ``scaled``."""
    return _scaled(user, seed, _FACTORS.get())


@lru_cache(maxsize=8192)
def _scaled(user: int, seed: int, factors: tuple[tuple[str, float], ...]) -> Traits:
    traits = _drawn(user, seed)
    return traits.model_copy(update={name: factor * getattr(traits, name) for name, factor in factors})


def _drawn(user: int, seed: int) -> Traits:
    rng = Random(derive_seed("population-user", seed, user))
    about = rng.choice(list(concerns().values()))
    low, high = _AGES.get(about.concern_id, (19, 60))
    role, gender = _role(rng, about)
    job = "student" if about.concern_id == "exam_pressure" else rng.choice(shared_slots()["job"])
    style = rng.choices(STYLES, (14, 30, 28, 16, 12))[0]
    words = min(70.0, max(5.0, rng.lognormvariate(3.05, 0.5)))
    if style == "rambling":
        words = max(28.0, words * 1.3)
    if style == "texting":
        words = min(26.0, words * 0.8)
    age = rng.randint(low, high)
    name = rng.choice(first_names("m" if about.concern_id == "anger" else rng.choice("fm")))
    return Traits(
        name=name,
        age=age,
        job=job,
        concern=about.concern_id,
        goal=rng.choices(GOALS, (34, 22, 18, 14, 12))[0],
        role=role,
        style=style,
        words=words,
        resistance=rng.betavariate(2, 3),
        openness=rng.betavariate(3, 2.5),
        patience=rng.betavariate(3, 2.5),
        trust=0.35 + 0.4 * rng.random(),
        hedging=rng.betavariate(1.5, 5),
        emoji=rng.random() * 0.35 if style in ("casual", "texting") and rng.random() < 0.5 else 0.0,
        typos={"texting": 0.25, "casual": 0.1, "rambling": 0.08}.get(style, 0.0) * rng.random() * 2,
        announces=rng.random(),
        stamina=min(24.0, max(3.0, rng.gauss(14.3, 4.8))),
        at_risk=rng.random() < (0.12 if about.concern_id in ("low_mood", "grief", "caring_relative") else 0.02),
        fillers=tuple(rng.sample(range(len(pool("reactions.yaml", "fillers"))), 6)),
        links=tuple(rng.sample(range(len(pool("reactions.yaml", "links"))), 2)),
        inner_links=tuple(rng.sample(range(len(pool("reactions.yaml", "inner_links"))), 3)),
        filling=rng.betavariate(5, 1.8),
        slots=_slots(rng, about, role, gender, {"age": str(age), "job": job}, name),
    )


Wanted = Mapping[str, Sequence[float] | Sequence[str]]
"""Traits that are wanted: allowed values of a trait in words, [lowest, highest] of a trait in numbers."""


def has_traits(traits: Traits, wanted: Wanted) -> bool:
    """Returns whether a user has all the traits that are wanted.

    >>> has_traits(traits_of(0, 0), {"style": list(STYLES), "words": [0, 1000]})
    True
    """
    for name, allowed in wanted.items():
        value = getattr(traits, name)
        if value not in allowed if isinstance(value, str) else not allowed[0] <= value <= allowed[1]:
            return False
    return True


def factor_problems(factors: Mapping[str, float]) -> list[str]:
    """Returns what is wrong with factors of traits, one line each."""
    known = [name for name in MEASURED if name not in ("age", "stamina")]
    return [f"{name}: expected a trait in numbers; {there_are(known, name)}" for name in factors if name not in known]


def trait_problems(wanted: Wanted) -> list[str]:
    """Returns what is wrong with the traits that are wanted, one line each: no such trait, or no such value."""
    problems = []
    for name, allowed in wanted.items():
        if name not in WORDED and name not in MEASURED:
            problems.append(f"unknown trait {name!r}; {there_are((*WORDED, *MEASURED), name)}")
        elif name in MEASURED:
            numbers = [value for value in allowed if isinstance(value, int | float)]
            if len(numbers) != len(allowed) or len(numbers) != 2 or numbers[0] > numbers[1]:
                problems.append(f"{name}: expected [lowest, highest] as numbers, got {list(allowed)}")
        else:
            known = WORDED[name] or tuple(concerns())
            unknown = [value for value in allowed if value not in known]
            problems += [f"{name}: unknown value {value!r}; {there_are(known, str(value))}" for value in unknown]
            if not allowed:
                problems.append(f"{name}: expected at least one value; {there_are(known, '')}")
    return problems


def _role(rng: Random, about: Concern) -> tuple[str, str]:
    role, _, gender = rng.choice(about.roles).partition(":")
    return role.replace("_", " "), gender or rng.choice("fm")


def _slots(rng: Random, about: Concern, role: str, gender: str, known: dict[str, str], own_name: str) -> dict[str, str]:
    slots = {name: rng.choice(options) for name, options in {**shared_slots(), **about.slots}.items()}
    friend_gender = rng.choice("fm")
    who_name = rng.choice([n for n in first_names(gender) if n != own_name])
    friend = rng.choice([n for n in first_names(friend_gender) if n not in (own_name, who_name)])
    slots |= {**known, "role": role, "who_name": who_name, "friend": friend, "Topic": about.topic}
    slots |= dict(zip(("he", "him", "his"), _pronouns(gender), strict=True))
    slots |= dict(zip(("fhe", "fhim", "fhis"), _pronouns(friend_gender), strict=True))
    slots = {name: render(value, rng, slots.__getitem__) for name, value in slots.items()}
    if role in PARTNERS:
        slots["partner"] = f"my {role}"
    if about.concern_id in _NO_PARTNER:
        slots["partner"] = "my flatmate"
    return slots


def _pronouns(gender: str) -> tuple[str, str, str]:
    return ("she", "her", "her") if gender == "f" else ("he", "him", "his")
