"""Cuts text to a number of tokens, at the end of a sentence or word if one is near.

Tokens are counted by a function that the caller passes. It need not be additive, since every result is counted as a
whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable

CountTokens = Callable[[str], int]
"""Returns the number of tokens of a text, without special tokens."""

MARK = "…"
_SENTENCE_END = re.compile(r"[.!?。！？…][\"')\]]*\s|\n")
_SENTENCE_START = re.compile(r"(?<=[.!?。！？…])\s+|\n+")


def encodable(text: str) -> str:
    """Returns text that tokenizers accept: lone surrogates become U+FFFD, pairs become the character they encode.

    >>> encodable("half \\ud83d") == "half \\ufffd", encodable("\\ud83d\\ude00") == "😀"
    (True, True)
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def estimate_tokens(text: str) -> int:
    """Returns the approximate number of tokens at four bytes each, for models whose tokenizer is not available."""
    return -(-len(encodable(text).encode()) // 4)


def cut_end(text: str, room: int, count_tokens: CountTokens) -> str:
    """Returns the longest start of the text that fits ``room`` tokens, including the mark; "" if none does.

    >>> cut_end("One two. Three four five.", 3, lambda text: len(text.split()))
    'One two. …'
    """
    return _cut(text, room, count_tokens, _start)


def cut_start(text: str, room: int, count_tokens: CountTokens) -> str:
    """Returns the longest end of the text that fits ``room`` tokens, including the mark; "" if none does.

    >>> cut_start("One two. Three four five.", 4, lambda text: len(text.split()))
    '… Three four five.'
    """
    return _cut(text, room, count_tokens, _end)


def cut_middle(lines: list[str], room: int, count_tokens: CountTokens) -> list[str]:
    """Returns the lines, without as many from the middle as needed to fit; a third of the room is for the start.

    Lines that need more than a quarter of the room are cut first.
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
    while low and count_tokens(shape(text, low)) > room:  # the count need not grow with the text
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
    """Returns the place of the last sentence that keeps 3/4 of ``size``, else of the last word that does, else None."""
    for place in (*sentences[-1:], word):
        if place > 0 and keeps(place) * 4 >= size * 3:
            return place
    return None
