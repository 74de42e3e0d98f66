"""Messages that are no messages: cut off, caught in a loop, spoken from the wrong seat, or full of markup.

What language models do and scripts do not, and what a chatbot that is trained must not get away with. Read from the
texts alone; what a message means is for ``rlenv.population.reading.acts``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

from rlenv.data.linguistics import ngrams, words
from rlenv.population.reading import act_patterns as P
from rlenv.population.reading.similarity import content
from rlenv.population.wording import all_texts

_PHRASE = 4
"""Words of a phrase that can be said again."""
_LOOPING = 0.15
"""Share of the phrases that are said again, from which on a message runs in a loop."""
_COPIED = 6
"""Words in a row, "I" among them, that are the user's and not the chatbot's."""
_STRANGE, _STRANGE_WORDS = 0.62, 8
"""Share of its content words that mean something here, below which a message of so many words is strange."""
_FIRST_PERSON = frozenset(["i", "i'm", "im", "i've", "ive", "i'd", "i'll", "my", "me", "myself"])
_QUOTED = re.compile(r"[\"“][^\"”]*[\"”]")


def is_cut(text: str) -> bool:
    """Returns whether a message stops in the middle of a sentence.

    It ends on a comma or a word that ends no sentence; or it has sentences with a stop, and the last has none.

    >>> is_cut("That sounds hard, and I wonder whether the"), is_cut("ok, that sounds hard")
    (True, False)
    >>> is_cut("I'm sorry to hear that. It must be hard for"), is_cut("I hear you. Take your time.")
    (True, False)
    """
    said = text.lower().split()
    if len(said) < 4 or not (text[-1].isalnum() or text[-1] in ",-–"):
        return False
    if text[-1] in ",-–" or said[-1] in P.UNFINISHED:
        return True
    stops = re.findall(r"[.?!…]\s", text)
    return bool(stops) and len(said) >= 8


def loops(text: str) -> bool:
    """Returns whether the message says the same phrase again and again.

    >>> loops("I'm here to help. I'm here to help you. I'm here to help."), loops("I'm here to help. What happened?")
    (True, False)
    """
    said = words(text)
    phrases = Counter(ngrams([said], _PHRASE))
    total = sum(phrases.values())
    again = sum(count - 1 for count in phrases.values())
    if again >= 2 and again / total >= _LOOPING:
        return True
    clauses = [words(clause) for clause in re.split(r"[.!?,;\n]+", text)]
    if any(count >= 3 and clause for clause, count in Counter(map(tuple, clauses)).items()):
        return True
    return any(a == b and a in P.UNFINISHED for clause in clauses for a, b in pairwise(clause))


def copies(text: str, users: Sequence[str]) -> bool:
    """Returns whether the message speaks the user's words as if they were its own.

    >>> copies("I missed the bus and cried at home.", ["today i missed the bus and cried"])
    True
    >>> copies("You missed the bus and cried at home.", ["today i missed the bus and cried"])
    False
    """
    own = ngrams([words(_QUOTED.sub(" . ", text))], _COPIED)
    theirs = set(ngrams([words(said.replace("’", "'")) for said in users], _COPIED))
    return any(run in theirs and not _FIRST_PERSON.isdisjoint(run) for run in own)


def is_strange(text: str, told: Iterable[frozenset[str]]) -> bool:
    """Returns whether most of what the message speaks of belongs neither here nor to this user.

    What belongs here are the words of the population's wording and of the trade; a message that has too many others
    is no language, or about something else altogether.

    Args:
        text: the message.
        told: content words of the user's messages, and of what else is known of them.
    """
    said = content(text)
    if len(said) < _STRANGE_WORDS:
        return False
    return len(said - _ordinary() - set().union(*told)) > (1 - _STRANGE) * len(said)


@cache
def _ordinary() -> frozenset[str]:
    """Returns the content words of ordinary conversations here."""
    return frozenset(
        stem for text in (all_texts(), P.COUNSELLING) for part in re.split(r"[^\w' ]", text) for stem in content(part)
    )


def swaps_roles(text: str) -> bool:
    """Returns whether the message says what only the user could: asks for help, or does not know what to do.

    >>> swaps_roles("Do you have any tips?"), swaps_roles('You asked, "do you have any tips?"')
    (True, False)
    """
    return P.FORMS["role"].search(_QUOTED.sub(" . ", text)) is not None


def has_markup(text: str) -> bool:
    """Returns whether markup, a placeholder or a broken character stands in the message.

    >>> has_markup("Dear [Your Name], **breathe**."), has_markup("Take a breath :)")
    (True, False)
    """
    return P.FORMS["markup"].search(text) is not None
