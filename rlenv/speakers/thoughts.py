"""Removes the thoughts of reasoning models, which some servers leave in the text of an answer."""

from __future__ import annotations

import re

TAGS = "think|thinking|thought|thoughts|reasoning|seed:think"
OTHERS = (
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    ("◁think▷", "◁/think▷"),  # Kimi
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    (r"(?:<\|start\|>assistant)?<\|channel\|>analysis", r"<\|channel\|>final<\|message\|>"),  # gpt-oss
)
"""Beginning and end of thoughts that are not in tags, as patterns."""
WHOLE = re.compile(
    rf"\s*(?:<({TAGS})>.*?</\1>|{'|'.join(f'{begin}.*?{end}' for begin, end in OTHERS)})", re.DOTALL | re.IGNORECASE
)
OPEN = re.compile(rf"\s*(?:<({TAGS})>|{'|'.join(begin for begin, _ in OTHERS)})", re.IGNORECASE)
CLOSE = re.compile(rf"</({TAGS})>|{'|'.join(end for _, end in OTHERS)}", re.IGNORECASE)


def without_thoughts(text: str) -> str:
    """Returns an answer without the thoughts at its beginning, stripped.

    The opening tag may be missing, where the prompt has it. If the closing tag is missing, the answer was cut within
    the thoughts, and nothing remains.

    >>> without_thoughts("<think>The user is sad. </think>\\n\\nThat sounds hard.")
    'That sounds hard.'
    >>> without_thoughts("The user is sad.</think>That sounds hard.")
    'That sounds hard.'
    >>> without_thoughts("<think>The user")
    ''
    >>> without_thoughts("[THINK]The user is sad.[/THINK]That sounds hard.")
    'That sounds hard.'
    """
    while whole := WHOLE.match(text):
        text = text[whole.end() :]
    if OPEN.match(text):
        return ""
    if close := CLOSE.search(text):
        text = text[close.end() :]
    return text.strip()
