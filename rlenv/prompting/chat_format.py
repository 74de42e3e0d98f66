"""Turns conversations into token ids with a model's chat template, for sampling and training in either seat.

A chat model writes as ``assistant``. For either seat, therefore, the model's own messages become the template's
assistant messages and those of the other seat the template's user messages. This role swap is the ``seat`` argument of
``ChatFormat.prompt``. SFT, sampling, forking and DPO all use this file, and so the same tokens.

The template is split into literal pieces by rendering it with markers, so ChatML and Llama-3 need no code of their own.
A template that renders a prefix differently after a message is added is rejected. Needs a tokenizer (transformers);
independent of torch.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from rlenv.core.errors import ConfigError
from rlenv.core.types import ROLE_OF_SEAT, Message, Role, Seat, Turn, Utterance
from rlenv.prompting.cutting import encodable

DATE = datetime(2024, 7, 26)
"""What templates with today's date write, so that a run is the same on any day; the date of Llama-3's own template."""
MESSAGE_CHARACTERS = 2_000
"""Length up to which a text counts as a message and not as a context: more of them are remembered."""
END_OF_SESSION_NAMES = ("<|endoftext|>", "<|end_of_text|>")
"""End-of-text tokens of pretraining that chat models do not use to end a turn."""


def spoken(text: str) -> str:
    """Returns a message as models read and write it: without surrounding white space.

    Chat templates strip messages, and sampled text rarely has the trailing blanks of real messages. With a common rule,
    a discriminator cannot tell real from simulated by a trailing space. Lone surrogates, which tokenizers reject,
    become U+FFFD.
    """
    return encodable(text.strip())


@dataclass(frozen=True)
class Piece:
    """The template's literal tokens around the content of a message: ``before``, content, ``after``."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer's chat template as token pieces. Made by :func:`chat_format`."""

    tokenizer: Any
    begin: tuple[int, ...]
    system: Piece
    own: Piece
    """The template's assistant message; ``after`` begins with the end-of-turn token."""
    other: Piece
    """The template's user message."""
    end_of_turn: int
    end_of_session: int

    @property
    def stop_token_ids(self) -> tuple[int, int]:
        """The tokens that end a sampled message: end of turn, end of session."""
        return self.end_of_turn, self.end_of_session

    def encode(self, text: str) -> tuple[int, ...]:
        """Returns the ids of plain text; the names of special tokens in it are encoded as text."""
        text = spoken(text)
        known = _message_ids if len(text) <= MESSAGE_CHARACTERS else _context_ids
        return tuple(known(self.tokenizer, text))

    def count(self, text: str) -> int:
        """Returns the number of tokens of plain text; unlike in ``encode``, they are not remembered."""
        return len(_encode(self.tokenizer, spoken(text)))

    def system_ids(self, text: str) -> tuple[int, ...]:
        """Returns the ids at the start of every prompt: begin-of-text and the system message."""
        return (*self.begin, *self.system.before, *self.encode(text), *self.system.after)

    def message_ids(self, role: Role, seat: Seat, utterance: Utterance) -> tuple[int, ...]:
        """Returns the ids of a past message from the view of ``seat``: its own as sampled, the other's from text."""
        if role != ROLE_OF_SEAT[seat]:
            return (*self.other.before, *self.encode(utterance.text), *self.other.after)
        sampled = utterance.token_ids or self.encode(utterance.text)
        if sampled and sampled[-1] in self.stop_token_ids:
            sampled = sampled[:-1]
        return (*self.own.before, *sampled, *self.own.after)

    def prompt(self, system: str, turns: Sequence[Turn], seat: Seat) -> list[int]:
        """Returns the prompt for the next message of ``seat``, [n]."""
        ids = list(self.system_ids(system))
        for turn in turns:
            ids.extend(self.message_ids(turn.role, seat, turn.utterance))
        ids.extend(self.own.before)
        return ids

    def reply_ids(self, text: str, *, ends_session: bool = False) -> tuple[int, ...]:
        """Returns the ids that a model would have sampled to write ``text``, including the end token."""
        return (*self.encode(text), self.end_of_session if ends_session else self.end_of_turn)

    def read_reply(self, token_ids: Sequence[int]) -> tuple[str, bool, bool]:
        """Returns (text, ends_session, truncated) for sampled ids."""
        ids = list(token_ids)
        last = ids[-1] if ids else None
        if last in self.stop_token_ids:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return spoken(text), last == self.end_of_session, last not in self.stop_token_ids

    def training_example(
        self,
        system: str,
        messages: Sequence[Message],
        seat: Seat,
        *,
        max_tokens: int | None = None,
    ) -> tuple[list[int], list[int]]:
        """Returns (token ids [n], mask [n]) of a whole session; the mask is 1 on the messages of ``seat``.

        All messages of the seat are trained in one pass. The user's seat also learns to end a session: its last
        message closes with the end-of-session token. If the chatbot spoke last, an empty user message with only that
        token is added, which is how a user leaves without a message. A session longer than ``max_tokens`` is cut after
        a whole message and then does not contain its end.
        """
        learn_end = seat == "user"
        ids = list(self.system_ids(system))
        mask = [0] * len(ids)
        last = len(messages) - 1

        def add(piece: Sequence[int], trained: int) -> None:
            ids.extend(piece)
            mask.extend([trained] * len(piece))

        for i, message in enumerate(messages):
            own = message.role == ROLE_OF_SEAT[seat]
            ends = learn_end and own and i == last
            body = self.reply_ids(message.content, ends_session=ends) if own else self.encode(message.content)
            size = len(body) + len(self.own.before) + len(self.own.after)
            if max_tokens is not None and len(ids) + size > max_tokens:
                return ids, mask
            piece = self.own if own else self.other
            add(piece.before, 0)
            add(body, int(own))
            add(piece.after[1:] if own else piece.after, 0)
        fits = max_tokens is None or len(ids) + len(self.own.before) + 1 <= max_tokens
        if learn_end and messages and messages[-1].role != ROLE_OF_SEAT[seat] and fits:
            add(self.own.before, 0)
            add((self.end_of_session,), 1)
        return ids, mask


def _encode(tokenizer: Any, text: str) -> array[int]:
    """Returns the ids of a text, four bytes each."""
    return array("i", tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


# Every turn of a conversation, and every alternative and candidate, reads the same context and past messages again.
_message_ids = lru_cache(maxsize=16_384)(_encode)
_context_ids = lru_cache(maxsize=1_024)(_encode)


def _check_renders(render: Callable[..., str], name: str, system: str) -> None:
    """Raises ``ConfigError`` if the template cannot render a conversation with a system message."""
    way_out = "use an instruction-tuned model whose chat template takes system messages, or give it such a template"
    try:
        rendered = render("s", "u", "a", "u", "a")
    except Exception as error:  # templates raise what they like; their sentences may quote messages
        try:
            render("u", "a", "u", "a")
        except Exception:
            raise ConfigError(
                f"the chat template of {name} cannot render a conversation of user and assistant "
                f"({type(error).__name__}); use another model or template"
            ) from None
        raise ConfigError(
            f"the chat template of {name} takes no system message, which holds the user's context; {way_out}"
        ) from None
    if system not in rendered:
        raise ConfigError(
            f"the chat template of {name} leaves out the system message, which holds the user's context; {way_out}"
        )


def chat_format(tokenizer: Any, end_of_session: str | None = None) -> ChatFormat:
    """Returns a tokenizer's chat template as token pieces.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        end_of_session: the token that ends a session; None means the model's own end-of-text token.

    Raises:
        ConfigError: no template, a template that raises, leaves out system messages or is not prefix-preserving, or no
            token to end a session.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template; use an instruction-tuned model or set one")
    name = str(getattr(tokenizer, "name_or_path", "") or "tokenizer")
    marks = {"s": "\u241fSYS\u241f", "u": "\u241fUSR\u241f", "a": "\u241fAST\u241f"}

    def render(*roles: str, generate: bool = False) -> str:
        names = {"s": "system", "u": "user", "a": "assistant"}
        chat = [{"role": names[r], "content": marks[r]} for r in roles]
        return tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=generate, strftime_now=DATE.strftime
        )

    _check_renders(render, name, marks["s"])
    full = render("s", "u", "a", "u", "a")
    head, _, rest = full.partition(marks["s"])
    after_system_and_user, _, rest = rest.partition(marks["u"])
    user_to_assistant, _, rest = rest.partition(marks["a"])
    assistant_to_user, _, rest = rest.partition(marks["u"])
    second, _, assistant_after = rest.partition(marks["a"])
    own_before = render("s", "u", generate=True)[len(render("s", "u")) :]
    other_after = user_to_assistant.removesuffix(own_before)
    other_before = assistant_to_user.removeprefix(assistant_after)
    system_after = after_system_and_user.removesuffix(other_before)
    rebuilt = (head + marks["s"] + system_after + other_before + marks["u"] + other_after + own_before + marks["a"]) + (
        assistant_after + other_before + marks["u"] + other_after + own_before + marks["a"] + assistant_after
    )
    if rebuilt != full or second != user_to_assistant or not own_before or not assistant_after:
        raise ConfigError(
            f"the chat template of {name} renders a message differently when other messages follow, so a conversation "
            "cannot be extended token by token; use a prefix-preserving template"
        )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    bos = tokenizer.bos_token if tokenizer.bos_token and head.startswith(tokenizer.bos_token) else ""
    # In ChatML the begin token opens every message, so it belongs to the pieces, not to the start of the text.
    bos = "" if bos and other_before.startswith(bos) else bos
    own_after = ids(assistant_after)
    vocabulary = tokenizer.get_vocab()
    candidates = [end_of_session] if end_of_session else [*END_OF_SESSION_NAMES]
    found = [vocabulary[c] for c in candidates if c in vocabulary and vocabulary[c] != own_after[0]]
    if not found:
        raise ConfigError(
            f"no end-of-session token in {name}: expected one of {', '.join(map(str, candidates))} in its vocabulary, "
            "other than its end-of-turn token; use a model that has one"
        )
    return ChatFormat(
        tokenizer=tokenizer,
        begin=ids(bos) if bos else (),
        system=Piece(ids(head.removeprefix(bos)), ids(system_after)),
        own=Piece(ids(own_before), own_after),
        other=Piece(ids(other_before), ids(other_after)),
        end_of_turn=own_after[0],
        end_of_session=found[0],
    )
