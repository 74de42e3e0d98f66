"""Builds the system message of each reader of the user context c, the same in training and in serving.

The simulator reads all six parts, a chatbot what it may know, the discriminator the simulator's without instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from rlenv.core.types import SessionContext
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.context import ContextConfig, build_context, chatbot_context

SystemText = Callable[[SessionContext], str]
"""Returns a reader's system message for a session's context."""

SUPPORT_PROMPT = (
    "You are a mental health support chatbot. Listen, reflect what the person says, ask open questions, and offer "
    "help that fits. Keep replies short. You do not diagnose, and you are not a human."
)


def token_counter(chat: ChatFormat) -> Callable[[str], int]:
    """Returns a function that counts the tokens of a text in a chat format."""
    return chat.count


def approximate_tokens(text: str) -> int:
    """Returns the approximate number of tokens without a tokenizer: four characters each, conservative for English."""
    return -(-len(text) // 4)


def remembered(system_text: SystemText) -> SystemText:
    """Returns ``system_text`` with its last results in memory: every turn of a conversation asks for the same one."""
    return lru_cache(maxsize=1_024)(system_text)


def simulator_system_text(config: ContextConfig, count_tokens: Callable[[str], int]) -> SystemText:
    """Returns a function that builds the simulator's system message: the parts of Appendix A within the budget."""
    return remembered(lambda context: build_context(context, config, count_tokens).text())


def chatbot_system_text(
    config: ContextConfig, count_tokens: Callable[[str], int], prompt: str | None = None, sees_context: bool = True
) -> SystemText:
    """Returns a function that builds a chatbot's system message: its prompt, and what it may know of the user."""

    def build(context: SessionContext) -> str:
        known = chatbot_context(context, config, count_tokens).text() if sees_context else ""
        return "\n\n".join(text for text in (SUPPORT_PROMPT if prompt is None else prompt, known) if text)

    return remembered(build)


def discriminator_system_text(config: ContextConfig, count_tokens: Callable[[str], int]) -> SystemText:
    """Returns a function that builds the discriminator's system message: the simulator's without the instruction."""
    return simulator_system_text(replace(config, instruction=""), count_tokens)
