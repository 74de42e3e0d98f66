"""Finds sessions that the simulated user spoiled, so that they are not silently counted against the chatbot.

Four kinds of faults, each told by rules that report only what they are sure of (English): the user left early, repeats
itself, speaks as the chatbot, or contradicts its profile. ``tests/benchmarks/bench_user_faults.py`` measures precision
and recall on a labelled sample. The rules read text alone, so real sessions give the rate to compare with. The fault of
a single answer by its reward is another thing (``rlenv.learning.simulator_faults``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlenv.core.types import Session
from rlenv.data.linguistics import plain, words
from rlenv.population.reading.similarity import content, likeness, sentences

EARLY_MESSAGES = 2
"""A user who leaves with its second message or before, and says no goodbye, left early."""
SAME_MESSAGE = 0.8
"""Two messages are the same if the Jaccard index of their content words is at least this."""
SHORTEST_REPEATED = 5
"""Words of a message whose repetition counts; people say "I don't know" twice."""

_GOODBYE = re.compile(
    r"\b(bye|good ?night|see (you|u|ya)|talk (to you )?(later|soon|tomorrow)|take care|thank(s| you)|thx|gtg|g2g|ttyl|"
    r"(have|need|got|gotta|going|want) (to )?(go|leave|run|stop|end|sleep|log off)|leav(e|ing)|enough|that'?s (it|all)|"
    r"waste of time|done (here|with)|not help(ing|ful)|\w+n'?t help(ing|ed)?|pointless|forget (it|this)|never ?mind|"
    r"no use|for (now|today)|"
    r"i'?m (off|out|done)|will stop|stop here|end (it|this)|try (someone|something) else)\b",
    re.IGNORECASE,
)
_ASKED_AGAIN = re.compile(
    r"\b(repeat|rephrase|say (that|it|this)( \w+)? again|once more|come again|pardon|"
    r"didn'?t (get|catch|hear|understand)|"
    r"what (do|did) you (mean|say)|could you (clarify|explain)|tell me again|not sure (i|what))\b",
    re.IGNORECASE,
)
_AS_CHATBOT = re.compile(
    r"\bas an? (ai|a\.i\.|artificial|language model|virtual|chatbot|assistant|therapist|counsell?or)\b"
    r"|\bi'?m (just |only )?an? (ai|a\.i\.|language model|virtual assistant|chat ?bot|assistant|support bot)\b"
    r"|\bi am (just |only )?an? (ai|a\.i\.|language model|virtual assistant|chat ?bot|assistant|support bot)\b"
    r"|\bi('?m| am) here (to (listen|support|help)|for you)\b"
    r"|\bhow (can|may|could) i (help|support|assist)( you)?\b"
    r"|\b(what|how) (brings|brought) you (here|in)\b"
    r"|\bthank(s| you) for (sharing|telling me|trusting|opening up|reaching out|letting me know)\b"
    r"|\b(sorry|sad) (to hear )?(that )?you('?re| are|'?ve| have) (been )?"
    r"(going|feeling|dealing|having|struggling|hurting)\b"
    r"|\bit sounds (like|as if|as though) you\b|\bwhat i('?m| am)? hear(ing)? is\b"
    r"|\bif i understand you (right|correctly)\b"
    r"|\byour (feelings|emotions|reaction) (is|are|makes?) (completely |totally |perfectly )?"
    r"(valid|understandable|normal|sense)\b"
    r"|\b(it'?s|it is|that'?s|that is) (okay|ok|normal|natural|understandable|valid) (for you )?(to feel|that you)\b"
    r"|\bhow (does|did|do|are) (that|this|it|you)( make you)? feel(ing)?\b"
    r"|\bwhat('?s| is| goes| comes)( on)? (through |in |to |on )?your mind\b"
    r"|\b(would|do) you (like|want) to (talk|tell me|share|explore|say)( a little| a bit)?( more)? about\b"
    r"|\b(can|could|would) you (tell|share with) me( a little| a bit)? more\b"
    r"|\btell me more( about (that|it|this|your))?\b"
    r"|\bhave you (tried|considered|thought about|spoken|talked) \w+"
    r"|\b(that|this|it) must be (so |very |really |incredibly )?(hard|difficult|tough|painful|exhausting)( for you)?\b"
    r"|\byou('?re| are) not alone\b|\bone step at a time\b|\btake (your time|a deep breath)\b"
    r"|\b(contact|call|reach out to) (a|the|your) (local |nearest )?(crisis|emergency|suicide|hotline|helpline)",
    re.IGNORECASE,
)
"""What a support chatbot says to a user; not what a user says of itself."""
_QUOTES = re.compile(r"[\"“‘«]|\b(you|u|she|he|they|people|everyone|everybody|mum|mom|friends?) (just |always |keep )?"
                     r"(said|say(s|ing)?|ask(s|ed|ing)?|tell(s|ing)?|told|go(es)?)\b", re.IGNORECASE)  # fmt: skip

_AGE = re.compile(
    r"\b(?:i'?m|i am|im)(?: only| just| already| now| almost| a)? (\d{1,2})(?:[ -]years?[ -]old)?"
    r"(?=\W*(?:$|[.,;!?\n]|and\b|but\b|now\b|already\b|man\b|woman\b|guy\b|girl\b|boy\b|years?[ -]old))"
    r"|\bi (?:just )?(?:turned|will be|'?ll be) (\d{1,2})\b"
    r"|\bat (?:my age of |the age of )?(\d{1,2}) i (?:am|should|still)\b"
    r"|\bmy age is (\d{1,2})\b",
    re.IGNORECASE,
)
_PROFILE_AGE = re.compile(
    r"^(?:[^\W\d_][\w'-]*,)? ?(\d{2})(?=[,. ]|$)|\bage:? ?(\d{2})\b|\b(\d{2})[ -]years?[ -]old\b|\baged (\d{2})\b",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"\b(?:(?i:my name(?:'s| is)|i'?m called|i am called)) ([^\W\d_][\w'-]+)"
    r"|(?:^|[.!?,] |\b(?i:please|you can|just) )[Cc]all me ([A-Z][\w'-]+)"
)
_PROFILE_NAME = re.compile(r"^([A-Z][\w'-]+),? (?:is |\d{2})|\bname:? ?([A-Z][\w'-]+)")
_JOB = re.compile(
    r"\b(?:i work as an?|my job as an?|i'?m an? (?=\w+ by (?:trade|profession))|i am employed as an?) ([a-z]+)",
    re.IGNORECASE,
)
_PROFILE_JOB = re.compile(
    r"^[A-Z][\w'-]+, \d{2}, ([a-z][a-z ]+)\.|\b(?:job|occupation|works as an?):? ?([a-z]+)", re.IGNORECASE
)
_PARTNERS = {name: name for name in ("wife", "husband", "girlfriend", "boyfriend")} | {
    "gf": "girlfriend",
    "bf": "boyfriend",
}
_PARTNER = re.compile(rf"\b({'|'.join(_PARTNERS)})\b(?!'s)(?: (?:is |named |called )?([A-Z][a-z]+))?")
_MY_PARTNER = re.compile(rf"\b[Mm]y ({'|'.join(_PARTNERS)})\b(?: (?:is |named |called )?([A-Z][a-z]+))?")
_ALONE = re.compile(r"\b(single|divorced|widow(ed|er)?|never married|no partner)\b", re.IGNORECASE)
_FORMER = re.compile(r"\b(ex|former|late|used to|divorc\w*|broke|break-?up|left me|died|passed)\b", re.IGNORECASE)


@dataclass(frozen=True)
class FaultCounts:
    """How many of some sessions the user spoiled."""

    num: int
    """Sessions."""
    spoiled: int
    """Sessions with a fault of any kind."""
    kinds: dict[str, int]
    """Sessions by kind of fault; one session may have several. Without ``left_early`` where nobody knows who ended."""

    def share(self, kind: str | None = None) -> float | None:
        """Returns the share of sessions with a fault of a kind, or of any; None if it is not known."""
        number = self.spoiled if kind is None else self.kinds.get(kind)
        return None if number is None or not self.num else number / self.num


def left_early(session: Session) -> bool:
    """Returns whether the user ended the session within its first messages, or with a question, without a goodbye.

    Only known of sessions that rlenv simulated, which say who ended them.
    """
    extra = session.model_extra or {}
    if extra.get("ended_by") != "user" or not session.messages:
        return False
    said = session.user_messages()
    last = plain(said[-1]) if said else ""
    if _GOODBYE.search(last):
        return False
    asks = session.messages[-1].role == "user" and last.rstrip().endswith("?")
    return asks or len(said) <= EARLY_MESSAGES


def repeats_itself(session: Session) -> bool:
    """Returns whether a message repeats an earlier one that nobody asked to hear again, or a sentence three times."""
    earlier: list[tuple[list[str], frozenset[str]]] = []
    asked = ""
    for message in session.messages:
        if message.role == "assistant":
            asked = message.content
            continue
        now = words(message.content)
        if (
            max(Counter(tuple(words(s)) for s in sentences(message.content) if len(words(s)) >= 3).values(), default=0)
            >= 3
        ):
            return True
        if len(now) >= SHORTEST_REPEATED:
            about = content(message.content)
            again = any(
                now == before or (min(len(about), len(then)) >= 4 and likeness(about, then) >= SAME_MESSAGE)
                for before, then in earlier
            )
            if again and not _ASKED_AGAIN.search(asked):
                return True
            earlier.append((now, about))
    return False


def speaks_as_chatbot(session: Session) -> bool:
    """Returns whether a message of the user says what only the chatbot would, or what the chatbot has said before."""
    heard: list[list[str]] = []
    for message in session.messages:
        if message.role == "assistant":
            heard.append(words(message.content))
            continue
        text = plain(message.content)
        now = words(text)
        if len(now) >= SHORTEST_REPEATED and now in heard:
            return True
        if any(_AS_CHATBOT.search(sentence) and not _QUOTES.search(sentence) for sentence in sentences(text)):
            return True
    return False


def contradicts_profile(session: Session) -> bool:
    """Returns whether the user says another age, name, job or partner of its own than its context has."""
    context = session.context
    profile = context.profile or ""
    known = " ".join(filter(None, (profile, context.situation, context.long_term_context)))
    said = [plain(text) for text in session.user_messages()]
    age, name, job = (_first(pattern, profile) for pattern in (_PROFILE_AGE, _PROFILE_NAME, _PROFILE_JOB))
    partners = {_PARTNERS[kind]: who for kind, who in _PARTNER.findall(known)}
    for text in said:
        if age and any(abs(int(found) - int(age)) > 1 for found in _all(_AGE, text) if int(found) > 9):
            return True
        if name and any(found.lower() != name.lower() for found in _all(_NAME, text)):
            return True
        if job and any(found.lower() not in job.lower() for found in _all(_JOB, text)):
            return True
        for sentence in sentences(text):
            if _FORMER.search(sentence):
                continue
            for kind, who in _MY_PARTNER.findall(sentence):
                other = bool(partners) and _PARTNERS[kind] not in partners
                renamed = bool(who and partners.get(_PARTNERS[kind])) and who != partners[_PARTNERS[kind]]
                if other or renamed or (not partners and _ALONE.search(profile)):
                    return True
    return False


KINDS: dict[str, Callable[[Session], bool]] = {
    "left_early": left_early,
    "repeats_itself": repeats_itself,
    "speaks_as_chatbot": speaks_as_chatbot,
    "contradicts_profile": contradicts_profile,
}
"""The kinds of faults and how each is told."""


def user_faults(session: Session) -> tuple[str, ...]:
    """Returns the kinds of faults of a session's user, in the order of ``KINDS``."""
    return tuple(kind for kind, has in KINDS.items() if has(session))


def count_faults(sessions: Iterable[Session]) -> FaultCounts:
    """Returns how many sessions the user spoiled, by kind."""
    sessions = list(sessions)
    found = [user_faults(session) for session in sessions]
    kinds = Counter(kind for faults in found for kind in faults)
    ends_known = any("ended_by" in (session.model_extra or {}) for session in sessions)
    told = {kind: kinds[kind] for kind in KINDS if ends_known or kind != "left_early"}
    return FaultCounts(len(found), sum(map(bool, found)), told)


def without_faults(sessions: Sequence[Session]) -> list[Session]:
    """Returns the sessions that the user did not spoil."""
    return [session for session in sessions if not user_faults(session)]


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    return next(iter(_all(pattern, text)), None)


def _all(pattern: re.Pattern[str], text: str) -> list[str]:
    return [next(group for group in match.groups() if group) for match in pattern.finditer(text) if any(match.groups())]
