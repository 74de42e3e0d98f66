"""Writes the same sentences in formal, plain, casual, texting or rambling English, and undoes abbreviations.

Sentences come as in the wording files: they start in lower case and have no final stop. Typos come from a closed list,
so that a small model can learn the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

EXPANSIONS = {
    "i'm": "I am", "i've": "I have", "i'd": "I would", "i'll": "I will", "can't": "cannot", "don't": "do not",
    "doesn't": "does not", "didn't": "did not", "won't": "will not", "it's been": "it has been",
    "it's": "it is", "that's": "that is", "isn't that": "is that not", "isn't": "is not", "wasn't": "was not",
    "wouldn't": "would not", "haven't": "have not", "hasn't": "has not",
    "couldn't": "could not", "shouldn't": "should not", "you're": "you are", "we're": "we are",
    "they're": "they are", "there's": "there is", "what's": "what is", "yeah": "yes", "gonna": "going to",
    "gotta": "have to", "idk": "I do not know", "meh": "not so well", "nope": "no", "hey": "hello", "ok": "okay",
}  # fmt: skip
TEXTING = {
    "you": "u", "your": "ur", "you're": "ur", "because": "bc", "right now": "rn", "i don't know": "idk",
    "to be honest": "tbh", "people": "ppl", "really": "rly", "tomorrow": "tmrw", "okay": "ok", "and": "n",
    "are": "r", "please": "pls", "thanks": "thx", "something": "smth", "weekend": "wkend", "yes": "yea",
}  # fmt: skip
TYPOS = {
    "because": "becuase", "really": "realy", "people": "poeple", "friend": "freind",
    "tomorrow": "tommorow", "tired": "tierd", "always": "allways", "thought": "thougt", "believe": "beleive",
    "what": "waht", "with": "wiht", "just": "jsut", "know": "konw", "their": "thier", "again": "agian",
    "every": "evry", "morning": "mornign", "going": "goign", "scared": "scard", "probably": "probaly",
}  # fmt: skip
_UNDONE = {short: word for table in (TYPOS, TEXTING) for word, short in table.items() if short != "ur"}
_WORD = re.compile(r"[\w']+")
_I = re.compile(r"\bI\b")
_CONJUNCTIONS = ("and ", "but ", "because ", "so ", "plus ", "also ")
_STOPS = (".", "!", "?", ",", "…")


def write(sentences: Sequence[str], register: str, rng: Random, typos: float = 0.0, emoji: str = "") -> str:
    """Returns the sentences as one message in the given register.

    >>> write(["I can't sleep", "it's late"], "formal", Random(0))
    'I cannot sleep. It is late.'
    """
    sentences = [s for s in sentences if s]
    if not sentences:
        return ""
    if register == "formal":
        text = _joined([_replaced(s, EXPANSIONS, 1.0, rng) for s in sentences], [". "], rng, capitals=True)
    elif register == "plain":
        text = _joined(sentences, [". "], rng, capitals=True)
    elif register == "rambling":
        text = _joined(sentences, [", ", " and ", ", and ", "... ", ". "], rng, capitals=rng.random() < 0.8)
    elif register == "casual":
        text = _joined(sentences, [". ", ". ", ", ", "\n"], rng, capitals=False)
        text = text.rstrip(".") if rng.random() < 0.7 else text
    else:
        shortened = [_replaced(s, TEXTING, 0.6, rng) for s in sentences]
        text = _joined(shortened, [" ", ", ", ". ", "\n"], rng, capitals=False).rstrip(".")
        text = text.replace("'", "") if rng.random() < 0.8 else text
    if register == "texting":
        text = text.lower()
    elif register == "casual":
        text = _I.sub("i", text)
    if typos:
        text = _replaced(text, TYPOS, typos, rng)
    return f"{text} {emoji}" if emoji else text


def spelled_out(text: str) -> str:
    """Returns the text with the known typos and abbreviations undone.

    >>> spelled_out("waht do u mean")
    'what do you mean'
    """
    if _UNDONE.keys().isdisjoint(_WORD.findall(text.lower())):
        return text  # most texts: a function call for each word takes four times as long
    return _WORD.sub(lambda m: _UNDONE.get(m.group().lower(), m.group()), text)


def _joined(sentences: Sequence[str], links: Sequence[str], rng: Random, capitals: bool) -> str:
    text = ""
    for sentence in sentences:
        if text:
            link = rng.choice(links)
            if " and " in link and sentence.startswith(_CONJUNCTIONS):
                link = ", "
            if text.endswith(_STOPS):
                link = " " if not link.startswith("\n") else link
            text += link
        starts = not text or text.rstrip().endswith((".", "!", "?"))
        text += sentence[0].upper() + sentence[1:] if capitals and starts else sentence
    return text if text.endswith(_STOPS) else text + "."


def _replaced(text: str, table: dict[str, str], rate: float, rng: Random) -> str:
    def word(match: re.Match[str]) -> str:
        found = table.get(match.group().lower())
        return found if found and rng.random() < rate else match.group()

    for phrase, found in table.items():
        if " " in phrase and phrase in text.lower() and rng.random() < rate:
            text = re.sub(re.escape(phrase), found, text, flags=re.IGNORECASE)
    return _WORD.sub(word, text)
