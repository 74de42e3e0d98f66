"""What a scripted chatbot understands of a user's message: people, feelings, topics, and a clause to give back.

Keyword slots and turned pronouns, for any text. Knows nothing of the population's hidden traits.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rlenv.types import Record

MAX_CHARS = 2000
_PERSON = re.compile(
    r"\bmy (best friend|boss|manager|supervisor|director|mother|mom|mum|father|dad|parents|sister|brother|wife|husband|partner"
    r"|girlfriend|boyfriend|fiance|ex-wife|ex-husband|ex|friend|roommate|flatmate|coworker|doctor|teacher|tutor|landlord|cousin|neighbour|grandmother"
    r"|kids|children|son|daughter|family)\b",
    re.IGNORECASE,
)
_FEELINGS = {
    "anxious": r"anxious|anxiety|nervous|on edge", "afraid": r"afraid|scared|terrified|frightened|fear",
    "sad": r"\bsad\b|cry|cried|crying", "ashamed": r"asham|embarrass", "guilty": r"guilt", "angry": r"angry|furious|rage",
    "lonely": r"lonely|alone|invisible", "tired": r"\btired|exhausted|burnt out|tierd", "overwhelmed": r"overwhelm|too much|drowning",
    "empty": r"empty|numb", "worried": r"worr(y|ied)", "hurt": r"\bhurt\b", "jealous": r"jealous", "hopeless": r"hopeless|desperate",
    "frustrated": r"frustrat|fed up",
}  # fmt: skip
_TOPICS = {
    "sleep": r"sleep|awake|insomnia|\bbed\b", "work": r"\bwork\b|\bjob\b|boss|manager|office|inbox", "money": r"money|debt|bills|\brent\b|\bpay\b",
    "panic": r"panic|attack|can't breathe|can't get air", "the exams": r"exam|grade|test in|midterm|finals|study",
    "the break-up": r"broke up|break-?up|ended it|left me|relationship", "the loss": r"\bdied\b|passed away|grave|funeral",
    "your family": r"mother|father|parents|mom|dad\b|family", "your health": r"doctor|tumour|symptom|pulse|headache|illness",
    "being around people": r"around people|shy|party|people talk", "your temper": r"temper|anger|shout",
}  # fmt: skip
_FEELING = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _FEELINGS.items()]
_TOPIC = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _TOPICS.items()]
_CLAUSE = re.compile(r"[^.!?\n,;…]+")
_TURN = {"i": "you", "my": "your", "me": "you", "i'm": "you're", "im": "you're", "i've": "you've", "ive": "you've",
         "i'd": "you'd", "i'll": "you'll", "mine": "yours", "myself": "yourself", "am": "are", "dont": "don't",
         "cant": "can't", "u": "you", "bc": "because", "rly": "really"}  # fmt: skip
_STARTS = re.compile(r"^(i|i'm|im|i've|ive|my|everything|nothing|nobody)\b", re.IGNORECASE)
_BAD_ECHO = re.compile(
    r"\b(you|your|u|ur|bot|should|hi|hello|thanks|sorry|said|mean|guess|know|idk|go|leave|bye|shouldn't have|not sure|never said"
    r"|don't (want|understand|think)|do not (want|understand|think)|dont (want|understand|think)|haha)\b",
    re.IGNORECASE,
)


class Heard(Record):
    """What was understood of one message; None where nothing was."""

    person: str | None = None
    feeling: str | None = None
    topic: str | None = None
    echo: str | None = None


@lru_cache(maxsize=4096)
def hear(text: str) -> Heard:
    """Returns what is understood of a user's message.

    >>> hear("I feel so ashamed when my boss calls").person
    'your boss'
    """
    text = text[:MAX_CHARS].replace("’", "'")
    person = _PERSON.search(text)
    return Heard(
        person=f"your {person.group(1).lower()}" if person else None,
        feeling=next((name for name, p in _FEELING if p.search(text)), None),
        topic=next((name for name, p in _TOPIC if p.search(text)), None),
        echo=_echo(text),
    )


def _echo(text: str) -> str | None:
    for clause in reversed(_CLAUSE.findall(text)):
        clause = re.sub(r"[^\w' -]", "", clause).strip()
        words = clause.split()
        if 4 <= len(words) <= 13 and _STARTS.match(clause) and not _BAD_ECHO.search(clause):
            turned = " ".join(_TURN.get(w.lower(), w) for w in words)
            turned = turned.replace("you was", "you were")
            return turned[0].lower() + turned[1:] if words[0].lower() in _TURN or words[0][0].isupper() else turned
    return None
