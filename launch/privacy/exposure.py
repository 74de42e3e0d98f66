"""The exposure of the sentences that ``rlenv plant`` put into a run's SFT sessions, from the weights of a version."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch.run.config.run import RunConfig
from launch.run.contents import model_folder, read_data, simulator_versions
from launch.run.directory import RunDirectory
from rlenv.core.types import Session
from rlenv.evaluation.exposure import candidates, exposure, mark_of, with_sentence
from rlenv.prompting.chat_format import ChatFormat, chat_format
from rlenv.prompting.system_texts import SystemText, simulator_system_text, token_counter

NUM_CONTROLS = 6
"""Sentences that were planted nowhere, to compare with."""
NEVER_PLANTED = 1_000_000
"""The number of the first of them."""
BATCH = 32


@dataclass(frozen=True)
class Exposure:
    """The exposure of one sentence."""

    num_sessions: int
    """SFT sessions that it is planted in; 0 for a sentence to compare with."""
    bits: float


def exposures(directory: RunDirectory, config: RunConfig, version: str) -> list[Exposure]:
    """Returns the exposure of each sentence planted in SFT sessions, and of as many as ``NUM_CONTROLS`` others.

    Empty where nothing is planted; no model is loaded then.

    Raises:
        ConfigError: the run has no such version.
    """
    trained_on = read_data(directory)["sft"][: config.data.max_sft_sessions]
    places: dict[tuple[int, int], list[Session]] = {}
    for session in trained_on:
        if mark := mark_of(session):
            places.setdefault(mark, []).append(session)
    if not places:
        return []
    model, chat = _load(
        model_folder(directory, config.simulator.model), simulator_versions(directory, config)[version].path
    )
    text = simulator_system_text(config.context, token_counter(chat))

    def measured(session: Session, planted: tuple[int, int], asked: tuple[int, int]) -> float:
        before = candidates(*planted, 1)[0]
        tried = [with_sentence(session, sentence, instead_of=before) for sentence in candidates(*asked)]
        return exposure(_log_probs(model, chat, text, tried))

    found = [Exposure(len(sessions), measured(sessions[0], mark, mark)) for mark, sessions in sorted(places.items())]
    marks = sorted(places)
    for index in range(NUM_CONTROLS):
        mark = marks[index % len(marks)]
        found.append(Exposure(0, measured(places[mark][0], mark, (mark[0], NEVER_PLANTED + index))))
    return found


def _load(base: str, adapter: str) -> tuple[Any, ChatFormat]:
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    from trainers.backend.huggingface import load_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PeftModel.from_pretrained(load_base(base, "float32" if device == "cpu" else "bfloat16", device), adapter)
    return model.to(device).eval(), chat_format(AutoTokenizer.from_pretrained(base))


def _log_probs(model: Any, chat: ChatFormat, text: SystemText, sessions: Sequence[Session]) -> list[float]:
    """Returns the log-prob of each session's first user message, from where the messages begin to differ.

    What stands before is read once.
    """
    import torch

    rows = []
    for session in sessions:
        size = 1 + next(i for i, message in enumerate(session.messages) if message.role == "user")
        ids, mask = chat.training_example(text(session.context), session.messages[:size], "user")
        end = max(i for i, is_own in enumerate(mask) if is_own)  # ends the session, which it did not in training
        rows.append(ids[:end])
    differs = (i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
    shared = next(differs) - 1
    tails = [row[shared:] for row in rows]

    def padded(values: list[int], width: int) -> list[int]:
        return values + [0] * (width - len(values))

    found: list[float] = []
    with torch.inference_mode():
        before = torch.tensor([rows[0][:shared]], device=model.device)
        read = model(input_ids=before, use_cache=True, logits_to_keep=1).past_key_values
        for start in range(0, len(tails), BATCH):
            part = tails[start : start + BATCH]
            width = max(map(len, part))
            tokens = torch.tensor([padded(tail, width) for tail in part], device=model.device)
            given = torch.tensor([padded([1] * len(tail), width) for tail in part], device=model.device)
            cache = copy.deepcopy(read)
            cache.batch_repeat_interleave(len(part))
            attended = torch.cat([given.new_ones(len(part), shared), given], dim=1)
            logits = model(input_ids=tokens, attention_mask=attended, past_key_values=cache, use_cache=True).logits
            own = logits[:, :-1].float().log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
            found += (own * given[:, 1:]).sum(1).tolist()
    return found
