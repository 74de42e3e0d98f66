"""Renders the templates of the wording files: ``[a|b|c]`` is a random choice, ``{slot}`` is filled in; both nest.

Independent of users and of the meaning of the lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from random import Random

_TOKEN = re.compile(r"[\[\]|]|\{\w+\}")

_AN = re.compile(r"\b([aA]) (?=[aeiou])(?!one|uni|use|eu)")

Node = str | tuple[str, str] | list[list["Node"]]
"""Text, ("slot", name), or a choice between sequences of nodes."""


@cache
def _parse(template: str) -> tuple[Node, ...]:
    sequence: list[Node] = []
    stack: list[tuple[list[Node], list[list[Node]]]] = []
    position = 0
    for match in _TOKEN.finditer(template):
        if match.start() > position:
            sequence.append(template[position : match.start()])
        token, position = match.group(), match.end()
        if token == "[":
            alternatives: list[list[Node]] = [[]]
            stack.append((sequence, alternatives))
            sequence = alternatives[0]
        elif token == "|" and stack:
            sequence = []
            stack[-1][1].append(sequence)
        elif token == "]":
            sequence, alternatives = stack.pop()
            sequence.append(alternatives)
        elif token == "|":
            sequence.append(token)
        else:
            sequence.append(("slot", token[1:-1]))
    sequence.append(template[position:])
    return tuple(sequence)


def render(template: str, rng: Random, slot: Callable[[str], str]) -> str:
    """Returns a random text of the template.

    >>> render("[hi|hi] {name}", Random(0), {"name": "Ada"}.__getitem__)
    'hi Ada'
    """
    return _AN.sub(r"\1n ", re.sub(r" {2,}", " ", _render(_parse(template), rng, slot)).strip())


def _render(nodes: tuple[Node, ...] | list[Node], rng: Random, slot: Callable[[str], str]) -> str:
    parts = []
    for node in nodes:
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, tuple):
            parts.append(slot(node[1]))
        else:
            parts.append(_render(rng.choice(node), rng, slot))
    return "".join(parts)
