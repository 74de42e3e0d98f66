"""Speakers backed by a language model on an engine, in either seat: prompt, one engine request, utterance.

The trained simulator, a zero-shot model in the user's seat and a hosted chatbot are all of one class; they differ in
seat, system text, adapter and sampling. Endpoints, which take text, are in ``rlenv.speakers.endpoint``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, ConversationState, Generation, Sampling, Seat, Utterance
from rlenv.env.provenance import SpeakerCard
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.system_texts import SystemText


class EngineSpeaker:
    """A speaker backed by a model on an engine.

    Args:
        name: the speaker's name in records and reports.
        engine: the engine that samples the model.
        format: the model's chat template.
        seat: "user" for a simulator, "chatbot" for a chatbot.
        system_text: returns this seat's system message for a context; called for every message.
        sampling: sampling settings; seed and stop tokens are set for each reply.
        adapter: the LoRA version. A new version is a new speaker, so a conversation keeps the one it started with.
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
        self.system_text = system_text

    def describe(self) -> SpeakerCard:
        """Returns the speaker's card for records; its version is its adapter's name."""
        return SpeakerCard(
            name=self.name,
            kind="engine",
            version=self.adapter.name if self.adapter else "",
            adapter_digest=self.adapter.digest if self.adapter else None,
            model=_model_name(self.format),
            sampling=self.sampling,
        )

    def system(self, state: ConversationState) -> str:
        """Returns this seat's system text."""
        return self.system_text(state.context)

    def prompt(self, state: ConversationState) -> list[int]:
        """Returns the token ids [n] of the prompt for this seat's next message."""
        return self.format.prompt(self.system(state), state.turns, self.seat)

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns this seat's next message. Only the user's seat can end a session."""
        sampling = self.sampling.model_copy(update={"seed": seed})
        return self._said(await self.engine.generate(self.prompt(state), sampling, self.adapter, self._key(state)))

    async def replies(self, state: ConversationState, seeds: Sequence[int]) -> list[Utterance]:
        """Returns what ``reply`` returns with each seed, in order; one request to the engine for all."""
        generations = await self.engine.generate_each(
            self.prompt(state), self.sampling, seeds, self.adapter, self._key(state)
        )
        return [self._said(generation) for generation in generations]

    def _key(self, state: ConversationState) -> str:
        return f"{self.seat}:{state.context_id}:{state.seed}"

    def _said(self, generation: Generation) -> Utterance:
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
    """Returns the checkpoint's hub name, or its folder's name without the path, which may differ between machines."""
    name = str(getattr(format.tokenizer, "name_or_path", "") or "")
    return (Path(name).name if Path(name).is_dir() else name) or None
