"""Recognises the acts of a chatbot message from its text, written by a script, a language model or a person.

``recognise`` returns the acts of one message after a history, in about a millisecond. Independent of the user's hidden
state: ``rlenv.population.oracle`` decides whether a wrap-up is premature or a hallucination was corrected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rlenv.core.types import ConversationState, Record, Role
from rlenv.population.reading import act_patterns as P
from rlenv.population.reading.broken import copies, has_markup, is_cut, is_strange, loops, swaps_roles
from rlenv.population.reading.hearing import has_cue
from rlenv.population.reading.similarity import all_words, content, likeness, sentences, share_known

MAX_CHARS = 4000
"""The rest of longer messages is not read."""
ACTS = (
    *("open_question", "closed_question", "reflection", "validation", "advice", "information"),
    *("dismissal", "repetition", "duplicate", "wrap_up", "diagnosis", "self_disclosure", "sycophancy", "confusing"),
    *("off_topic", "hallucination", "contradiction", "incomplete", "ignores_end", "cold", "empty"),
    *("misunderstanding", "cheer", "blurs", "pushes_advice", "markup"),
    *("crisis_resources", "safety_check", "greeting", "goodbye", "apology", "explains", "admits_ai", "overlong"),
)
FAULTS = frozenset(ACTS[ACTS.index("dismissal") : ACTS.index("crisis_resources")])
"""Acts that a counsellor should never perform."""
_SENTENCE_ACTS = tuple(act for act in P.ACTS if act not in ("lets_go", "claims_memory"))
_SAME, _SAME_QUESTION, _SAME_WORDS = 0.75, 0.6, 0.8
_SHORT = 12
"""A message of at most so many characters, such as "Go on.", may be used twice."""
_LONG = 12
"""A message of at least so many words delays a user who must leave, whatever its content."""
_ON_TOPIC = {"validation", "reflection", "open_question", "self_disclosure", "greeting", "goodbye", "wrap_up"}
_ABOUT = re.compile(r"\byour (\w+)")
History = Sequence[tuple[Role, str]]


class ActSet(Record):
    """The acts of one chatbot message."""

    acts: frozenset[str]
    asked: str | None = None
    """The kind of fact that its question asks for, such as "feel" or "tried"."""
    repeats: int = 0
    """Number of earlier chatbot messages with nearly the same text or question."""

    def __contains__(self, act: object) -> bool:
        return act in self.acts

    @property
    def faults(self) -> frozenset[str]:
        """The acts of the message that a counsellor should never perform."""
        return self.acts & FAULTS


def history_of(state: ConversationState) -> list[tuple[Role, str]]:
    """Returns the conversation as (role, text) pairs, oldest first."""
    return [(t.role, t.utterance.text) for t in state.turns]


def recognise(text: str, history: History = (), known: str = "") -> ActSet:
    """Returns the acts of a chatbot message.

    Args:
        text: the message.
        history: the messages before it, as (role, text) pairs.
        known: what else the chatbot may know about the user, such as profile and summaries.

    >>> sorted(recognise("That sounds hard. What happened?").acts)
    ['open_question', 'validation']
    """
    text = text[:MAX_CHARS].replace("’", "'").strip()
    if not any(c.isalnum() for c in text):
        return ActSet(acts=frozenset({"empty"}))
    users = [t for role, t in history if role == "user"]
    own = [t for role, t in history if role == "assistant"]
    parts = sentences(text)
    acts, asked = _acts_of_sentences(parts)
    repeats = _repeats(text, own)
    if repeats:
        acts.add("repetition")
        if len(history) >= 2 and own and own[-1].strip() == text:
            acts.add("duplicate")
    acts |= _form(text, acts)
    if loops(text) or copies(text, users[-3:]) or swaps_roles(text):
        acts.add("confusing")
    if users:
        acts |= _against_history(text, parts, acts, users, own, known)
    return ActSet(acts=frozenset(acts), asked=asked, repeats=repeats)


def _acts_of_sentences(parts: Sequence[str]) -> tuple[set[str], str | None]:
    acts: set[str] = set()
    asked = None
    for index, sentence in enumerate(parts):
        found, after = _acts_of(sentence)
        acts |= found if index < 2 else found - {"greeting"}
        asked = after or asked
    if "crisis_resources" in acts:
        acts.discard("dismissal")
    return acts, asked


@lru_cache(maxsize=16384)
def _acts_of(sentence: str) -> tuple[frozenset[str], str | None]:
    found = {act for act in _SENTENCE_ACTS if P.ACTS[act].search(sentence)}
    question = _question(sentence)
    if "open_question" in question and not P.FORMS["suggests_by_asking"].search(sentence):
        found.discard("advice")
    if question and sentence.endswith("?") and len(sentence) < 90:
        found -= {"information", "validation"}
    found |= question
    if "dismissal" in found:
        found -= {"validation", "advice", "information", "reflection"}
    if "diagnosis" in found:
        found -= {"reflection", "information"}
    return frozenset(found), _asked(sentence) if question else None


def _question(sentence: str) -> set[str]:
    plain = P.FORMS["would_say"].sub("?", sentence)
    if P.FORMS["open_question"].search(plain):
        return {"open_question"}
    if sentence.endswith("?"):
        return {"closed_question"}
    return set()


def _asked(sentence: str) -> str | None:
    return next((kind for kind, pattern in P.ASKED.items() if pattern.search(sentence)), None)


def _repeats(text: str, own: Sequence[str]) -> int:
    whole = content(text)
    questions = _questions(text)
    found = sum(_same(text, whole, questions, earlier) for earlier in own)
    short = [earlier for earlier in own if earlier.strip() == text and len(text) <= _SHORT]
    return found + (len(short) if len(short) >= 2 else 0)


def _same(text: str, whole: frozenset[str], questions: Sequence[frozenset[str]], earlier: str) -> bool:
    if text == earlier.strip():
        return len(text) > _SHORT
    if len(whole) >= 4 and likeness(whole, content(earlier)) >= _SAME:
        return True
    used = all_words(text)
    if len(used) >= 6 and likeness(used, all_words(earlier)) >= _SAME_WORDS:
        return True
    return any(
        min(len(q), len(a)) >= 2 and likeness(q, a) >= _SAME_QUESTION for q in questions for a in _questions(earlier)
    )


@lru_cache(maxsize=16384)
def _questions(text: str) -> tuple[frozenset[str], ...]:
    """Returns the content words of each question of a message; earlier messages are read again at every turn."""
    return tuple(content(s) for s in sentences(text) if s.endswith("?"))


def _form(text: str, acts: set[str]) -> set[str]:
    """Returns the acts that follow from the form of the whole message."""
    bare = len(text.split()) <= 2 and not text.endswith("?") and not acts & {"greeting", "goodbye", "apology"}
    forms = {
        "incomplete": is_cut(text),
        "cold": bare or P.FORMS["cold"].search(text) or P.FORMS["curt"].search(text),
        "confusing": len(P.FORMS["jargon"].findall(text)) >= 2 or P.FORMS["meta"].search(text),
        "blurs": P.FORMS["blurs"].search(text),
        "markup": has_markup(text),
        "overlong": len(text) > 1200,
    }
    return {act for act, found in forms.items() if found}


def _against_history(
    text: str, parts: Sequence[str], acts: set[str], users: Sequence[str], own: Sequence[str], known: str
) -> set[str]:
    found: set[str] = set()
    user_words = [content(t) for t in users] + ([content(known)] if known else [])
    for sentence in parts:
        claims = P.ACTS["claims_memory"].search(sentence) and not P.FORMS["grateful"].search(sentence)
        if claims and share_known(content(sentence), user_words) < 0.4:
            found.add("hallucination")
        if _contradicts(sentence, own):
            found.add("contradiction")
    last = users[-1]
    if _off_topic(text, acts, user_words):
        found.add("off_topic")
    elif is_strange(text, user_words):
        found.add("confusing")
    if _misunderstands(text, acts, [*users, known], own):
        found.add("misunderstanding")
    if any(P.FORMS["cheer"].search(s) for s in parts[:2]) and not P.FORMS["good_news"].search(last):
        found.add("cheer")
    if "advice" in acts and "crisis_resources" not in acts and has_cue(last, "wants_no_advice"):
        found.add("pushes_advice")
    advances = acts & {"open_question", "closed_question", "advice"} or P.FORMS["goes_on"].search(text)
    goes_on = bool(advances) or len(text.split()) >= _LONG
    lets_go = acts & {"goodbye", "wrap_up"} or P.ACTS["lets_go"].search(text)
    if goes_on and not lets_go and (has_cue(last, "leaving") or has_cue(last, "goodbye")):
        found.add("ignores_end")
    return found


def _misunderstands(text: str, acts: set[str], user_texts: Sequence[str], own: Sequence[str]) -> bool:
    """Returns whether the message responds to a death, or repeatedly to a crisis, that the user never mentioned."""
    if P.FORMS["condolence"].search(text) and not any(P.FORMS["loss"].search(t) for t in user_texts):
        return True
    again = "crisis_resources" in acts and any(P.ACTS["crisis_resources"].search(earlier) for earlier in own)
    return again and not any(has_cue(t, "crisis") for t in user_texts)


def _off_topic(text: str, acts: set[str], user_words: Sequence[frozenset[str]]) -> bool:
    stems = content(text)
    if "confusing" in acts or len(stems) < 3:
        return False
    known = share_known(stems, user_words)
    if P.FORMS["off_topic"].search(text):
        return known < 0.34
    bound = P.FORMS["helping"].search(text) or P.FORMS["refers_back"].search(text)
    return known == 0 and len(stems) >= 4 and not acts & _ON_TOPIC and not bound


def _contradicts(sentence: str, own: Sequence[str]) -> bool:
    if not P.FORMS["negated"].search(sentence):
        return False
    claimed = content(sentence)
    for earlier in own[-4:]:
        for advised in sentences(earlier):
            if P.ACTS["advice"].search(advised) and not P.FORMS["negated"].search(advised):
                shared = claimed & content(advised)
                about = set(_ABOUT.findall(sentence.lower())) & set(_ABOUT.findall(advised.lower()))
                if len(shared) >= 2 or about:
                    return True
    return False
