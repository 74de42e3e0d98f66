"""Language models in either seat: a prompt built from the conversation, one engine request, an utterance.

The trained simulator, a zero-shot model in the user's seat and a hosted chatbot are one class here; they differ
in their seat, their system text, their adapter and their sampling. Endpoints, which take text, are in
``rlenv.speakers.endpoint``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, ConversationState, Sampling, Seat, SessionContext, Utterance
from rlenv.env.provenance import SpeakerCard
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.system_texts import SystemText


class EngineSpeaker:
    """A model on an engine, speaking from one seat.

    Args:
        name: who it is in records and reports.
        engine: where it is sampled.
        format: the model's chat template.
        seat: "user" for a simulator, "chatbot" for a chatbot.
        system_text: from a context to this seat's system message.
        sampling: its seed and stop tokens are set for each reply.
        adapter: the LoRA version; a new version is a new speaker, so a conversation keeps the one it began with.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        format: ChatFormat,
        seat: Seat,
        system_text: SystemText,
        sampling: Sampling,
        adapter: Adapter | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.format = format
        self.seat = seat
        self.adapter = adapter
        self.sampling = sampling.model_copy(update={"stop_token_ids": format.stop_token_ids})
        self.system_text = lru_cache(maxsize=4096)(_by_json(system_text))

    def describe(self) -> SpeakerCard:
        """Returns who this is; its version is its adapter's."""
        return SpeakerCard(
            name=self.name,
            kind="engine",
            version=self.adapter.name if self.adapter else "",
            adapter_digest=self.adapter.digest if self.adapter else None,
            model=_model_name(self.format),
            sampling=self.sampling,
        )

    def system(self, state: ConversationState) -> str:
        """Returns the system text that this seat is prompted with."""
        return self.system_text(state.context.model_dump_json())

    def prompt(self, state: ConversationState) -> list[int]:
        """Returns the token ids after which this seat speaks next, [n]."""
        return self.format.prompt(self.system(state), state.turns, self.seat)

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns this seat's next message. Only the user's seat can end a session."""
        generation = await self.engine.generate(
            self.prompt(state),
            self.sampling.model_copy(update={"seed": seed}),
            self.adapter,
            conversation=f"{self.seat}:{state.context_id}:{state.seed}",
        )
        text, ends, truncated = self.format.read_reply(generation.token_ids)
        return Utterance(
            text=text,
            ends_session=ends and self.seat == "user",
            token_ids=generation.token_ids,
            logprobs=generation.logprobs,
            adapter=generation.adapter,
            truncated=truncated,
        )


def _model_name(format: ChatFormat) -> str | None:
    """The checkpoint's hub name, or its folder's: where the folder lies is no part of who speaks."""
    name = str(getattr(format.tokenizer, "name_or_path", "") or "")
    return (Path(name).name if Path(name).is_dir() else name) or None


def _by_json(system_text: SystemText) -> Callable[[str], str]:
    """Contexts hold dictionaries, which do not hash; their JSON does."""

    def build(context_json: str) -> str:
        return system_text(SessionContext.model_validate_json(context_json))

    return build
