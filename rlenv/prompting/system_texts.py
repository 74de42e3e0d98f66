"""What each reader is told of the context c: the simulator all six parts, a chatbot what it may know, the
discriminator the same facts without instructions. One place, because training and serving must say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rlenv.core.types import SessionContext
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.context import ContextConfig, build_context, chatbot_context

SystemText = Callable[[SessionContext], str]
"""Builds a reader's system message from a session's context."""

SUPPORT_PROMPT = (
    "You are a mental health support chatbot. Listen, reflect what the person says, ask open questions, and offer "
    "help that fits. Keep replies short. You do not diagnose, and you are not a human."
)


def token_counter(chat: ChatFormat) -> Callable[[str], int]:
    """Returns the function that counts a text's tokens in a chat format."""
    return lambda text: len(chat.encode(text))


def approximate_tokens(text: str) -> int:
    """Returns the tokens of a text where no tokeniser is known: four characters each, on the safe side for English."""
    return -(-len(text) // 4)


def simulator_system_text(config: ContextConfig, count_tokens: Callable[[str], int]) -> SystemText:
    """Returns the builder of the simulator's system message: the parts of Appendix A within the budget."""
    return lambda context: build_context(context, config, count_tokens).text()


def chatbot_system_text(
    config: ContextConfig, count_tokens: Callable[[str], int], prompt: str | None = None, sees_context: bool = True
) -> SystemText:
    """Returns the builder of a chatbot's system message: its prompt and what it may know of the user."""

    def build(context: SessionContext) -> str:
        known = chatbot_context(context, config, count_tokens).text() if sees_context else ""
        return "\n\n".join(text for text in (SUPPORT_PROMPT if prompt is None else prompt, known) if text)

    return build


def discriminator_system_text(config: ContextConfig, count_tokens: Callable[[str], int]) -> SystemText:
    """Returns the builder of the discriminator's context: the simulator's, without its instruction."""
    return simulator_system_text(replace(config, instruction=""), count_tokens)
