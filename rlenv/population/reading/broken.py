"""Recognises malformed messages: cut off, looping, in the user's role, incoherent, or with markup.

Language models write them, scripts do not; a chatbot must not be rewarded for them in training. Only the texts are
read; the meaning of a message is recognised by ``rlenv.population.reading.acts``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise

from rlenv.data.linguistics import ngrams, words
from rlenv.population.reading import act_patterns as P
from rlenv.population.reading.similarity import content
from rlenv.population.wording import all_texts

_PHRASE = 4
"""Number of words in a phrase, for the detection of loops."""
_LOOPING = 0.15
"""A message loops if at least this share of its phrases is repeated."""
_COPIED = 6
"""Number of consecutive words, with a first-person word among them, that count as copied from the user."""
_STRANGE, _STRANGE_WORDS = 0.62, 8
"""A message of at least 8 content words is strange if a smaller share of them than 0.62 is ordinary here."""
_FIRST_PERSON = frozenset(["i", "i'm", "im", "i've", "ive", "i'd", "i'll", "my", "me", "myself"])
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")


def is_cut(text: str) -> bool:
    """Returns whether a message stops in the middle of a sentence.

    It does if it ends with a comma or a word that cannot end a sentence, or if only its last sentence has no full stop.

    >>> is_cut("That sounds hard, and I wonder whether the"), is_cut("ok, that sounds hard")
    (True, False)
    >>> is_cut("I'm sorry to hear that. It must be hard for"), is_cut("I hear you. Take your time.")
    (True, False)
    """
    tokens = text.lower().split()
    if len(tokens) < 4 or not (text[-1].isalnum() or text[-1] in ",-–"):
        return False
    if text[-1] in ",-–" or tokens[-1] in P.UNFINISHED:
        return True
    stops = re.findall(r"[.?!…]\s", text)
    return bool(stops) and len(tokens) >= 8


def loops(text: str) -> bool:
    """Returns whether the message repeats the same phrase.

    >>> loops("I'm here to help. I'm here to help you. I'm here to help."), loops("I'm here to help. What happened?")
    (True, False)
    """
    phrases = Counter(ngrams([words(text)], _PHRASE))
    total = sum(phrases.values())
    repeated = sum(count - 1 for count in phrases.values())
    if repeated >= 2 and repeated / total >= _LOOPING:
        return True
    clauses = [words(clause) for clause in re.split(r"[.!?,;\n]+", text)]
    if any(count >= 3 and clause for clause, count in Counter(map(tuple, clauses)).items()):
        return True
    return any(a == b and a in P.UNFINISHED for clause in clauses for a, b in pairwise(clause))


def copies(text: str, users: Sequence[str]) -> bool:
    """Returns whether the message repeats the user's words in the first person, as if they were its own.

    >>> copies("I missed the bus and cried at home.", ["today i missed the bus and cried"])
    True
    >>> copies("You missed the bus and cried at home.", ["today i missed the bus and cried"])
    False
    """
    own = [run for run in ngrams([words(_QUOTED.sub(" . ", text))], _COPIED) if not _FIRST_PERSON.isdisjoint(run)]
    return bool(own) and any(run in of_user for of_user in map(_runs, users) for run in own)


@lru_cache(maxsize=4096)
def _runs(message: str) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams([words(message.replace("’", "'"))], _COPIED))


def is_strange(text: str, user_words: Iterable[frozenset[str]]) -> bool:
    """Returns whether too many words of the message are neither ordinary here nor the user's own.

    Ordinary words are those of the population's wording files and of counselling. A message with too many others is
    gibberish, or about an unrelated subject.

    Args:
        text: the message.
        user_words: content words of the user's messages, and of what else is known about the user.
    """
    stems = content(text)
    if len(stems) < _STRANGE_WORDS:
        return False
    return len(stems - _ordinary() - set().union(*user_words)) > (1 - _STRANGE) * len(stems)


@cache
def _ordinary() -> frozenset[str]:
    """Returns the stems of the ordinary words."""
    return frozenset(
        stem for text in (all_texts(), P.COUNSELLING) for part in re.split(r"[^\w' ]", text) for stem in content(part)
    )


def swaps_roles(text: str) -> bool:
    """Returns whether the message is one of a user: it asks for help, or does not know what to do.

    >>> swaps_roles("Do you have any tips?"), swaps_roles('You asked, "do you have any tips?"')
    (True, False)
    """
    return P.FORMS["role"].search(_QUOTED.sub(" . ", text)) is not None


def has_markup(text: str) -> bool:
    """Returns whether the message contains markup, a placeholder or a broken character.

    >>> has_markup("Dear [Your Name], **breathe**."), has_markup("Take a breath :)")
    (True, False)
    """
    return P.FORMS["markup"].search(text) is not None
