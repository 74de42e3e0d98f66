"""Pretrains the small Llama: a byte-level BPE tokenizer and a model of a few million parameters, from sessions alone.

For runs without a downloaded model: an iteration on a laptop, the tests, the tutorial. The result is an ordinary
checkpoint (Llama class, ChatML template) that LoRA, the discriminator and every engine load like a large one. It learns
whole conversations of both seats in ``ChatFormat``'s layout, as a basis for fine-tuning. Not part of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from rlenv.core.errors import PhaseError
from trainers.backend.fit import TrainOptions, train_to_folder
from trainers.pretrain.config import PretrainConfig, PretrainResult
from trainers.sft.config import SftExample


def fit_base_model(
    examples: Sequence[SftExample],
    config: PretrainConfig,
    out_dir: str | Path,
    **options: Unpack[TrainOptions],
) -> PretrainResult:
    """Returns a small chat model trained from scratch, written to ``out_dir`` (which must not exist).

    Args:
        examples: conversations with their system texts; to train both seats, pass each conversation once per seat.
        config: shape and training.
        out_dir: an ordinary transformers checkpoint with its tokenizer; appears whole or not at all.
        options: see ``TrainOptions``.

    Raises:
        PhaseError: training failed, or the conversations do not fill one batch.
    """
    from trainers.pretrain.loop import train_base_model

    if not examples:
        raise PhaseError("pretrain: no conversations to learn from")
    summary = train_to_folder(train_base_model, "pretrain", (tuple(examples), config), out_dir, **options)
    return PretrainResult(path=Path(out_dir), **summary)
