"""Text made to fit a number of tokens, at the end of a sentence or word where one is near.

Knows only a function that counts the tokens of a text. Such functions need not be additive; what is returned was
counted as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CountTokens = Callable[[str], int]
"""Text to its number of tokens, special tokens not counted."""

MARK = "…"
_SENTENCE_END = re.compile(r"[.!?。！？…][\"')\]]*\s|\n")
_SENTENCE_START = re.compile(r"(?<=[.!?。！？…])\s+|\n+")


def encodable(text: str) -> str:
    """Returns the text fit for tokenizers: lone surrogates become U+FFFD, pairs the character they mean.

    >>> encodable("half \\ud83d") == "half \\ufffd", encodable("\\ud83d\\ude00") == "😀"
    (True, True)
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def estimate_tokens(text: str) -> int:
    """Returns roughly how many tokens a text has: four bytes each. For models whose tokenizer is not at hand."""
    return -(-len(encodable(text).encode()) // 4)


def cut_end(text: str, room: int, count_tokens: CountTokens) -> str:
    """Returns the longest start of the text that fits ``room`` tokens, the mark included; "" if nothing does.

    >>> cut_end("One two. Three four five.", 3, lambda text: len(text.split()))
    'One two. …'
    """
    return _cut(text, room, count_tokens, _start)


def cut_start(text: str, room: int, count_tokens: CountTokens) -> str:
    """Returns the longest end of the text that fits ``room`` tokens, the mark included; "" if nothing does.

    >>> cut_start("One two. Three four five.", 4, lambda text: len(text.split()))
    '… Three four five.'
    """
    return _cut(text, room, count_tokens, _end)


def cut_middle(lines: list[str], room: int, count_tokens: CountTokens) -> list[str]:
    """Returns the lines without as many middle ones as it takes to fit: a third of the room goes to the start.

    Lines that alone are longer than a quarter of the room are cut first.
    """
    if count_tokens("\n".join(lines)) <= room:
        return lines
    longest = max(room // 4, 1)
    lines = [line if count_tokens(line) <= longest else cut_end(line, longest, count_tokens) for line in lines]
    costs = [count_tokens(line + "\n") for line in lines]
    head, spent = 0, 0
    while head < len(lines) and spent + costs[head] <= room // 3:
        spent, head = spent + costs[head], head + 1
    tail, spent = len(lines), spent + count_tokens(MARK + "\n")
    while tail > head and spent + costs[tail - 1] <= room:
        spent, tail = spent + costs[tail - 1], tail - 1
    kept, rest = lines[:head], lines[tail:]
    middle = [MARK] if tail > head else []
    while count_tokens("\n".join([*kept, *middle, *rest])) > room and (kept or rest):
        kept, rest, middle = (kept, rest[1:], [MARK]) if rest else (kept[:-1], rest, [MARK])
    return [*kept, *middle, *rest]


def _cut(text: str, room: int, count_tokens: CountTokens, shape: Callable[[str, int], str]) -> str:
    if count_tokens(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(shape(text, middle)) <= room else (low, middle - 1)
    while low and count_tokens(shape(text, low)) > room:  # a count that does not grow with the text
        low = low * 9 // 10
    return shape(text, low) if low else ""


def _start(text: str, size: int) -> str:
    kept = text[:size]
    if size < len(text):
        ends = [match.end() for match in _SENTENCE_END.finditer(kept)]
        kept = kept[: _near(ends, size, kept.rfind(" "), lambda at: at)]
    return f"{kept.rstrip()} {MARK}" if kept.strip() else ""


def _end(text: str, size: int) -> str:
    kept = text[len(text) - size :]
    if size < len(text):
        starts = [match.end() for match in _SENTENCE_START.finditer(kept)][::-1]
        kept = kept[_near(starts, size, kept.find(" ") + 1, lambda at: size - at) or 0 :]
    return f"{MARK} {kept.lstrip()}" if kept.strip() else ""


def _near(sentences: list[int], size: int, word: int, keeps: Callable[[int], int]) -> int | None:
    """The place of the last sentence that keeps 3/4 of ``size``, else of a word that does, else None."""
    for place in (*sentences[-1:], word):
        if place > 0 and keeps(place) * 4 >= size * 3:
            return place
    return None
