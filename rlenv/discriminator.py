"""The discriminator's model: a token classifier on a causal backbone, its checkpoint folder, and how it scores (Eq. 2).

``AutoModelForTokenClassification`` with one label; the logit at a user message's end-of-turn token is the log-odds of
*real* there. The backbone may compute in bfloat16, the score head and the logits are float32 always: Eq. 4 takes
differences of log-odds, and bfloat16's eight bits would make them coarse. Causal attention and padding on the right
together mean that a position never sees padding or what comes after it, so no attention mask is passed.

Needs torch and transformers (peft for a LoRA checkpoint). Knows nothing of training loops or of who calls it; the
layout is in ``discriminator_rows``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rlenv.chat_format import ChatFormat, chat_format
from rlenv.discriminator_rows import (
    DiscriminatorLayout,
    DiscriminatorRow,
    DiscriminatorTree,
    discriminator_tree,
    require_whole,
)
from rlenv.errors import ConfigError
from rlenv.rewards import PRIOR_LOG_ODDS
from rlenv.types import Branch, Session, SessionScores

CARD = "discriminator.json"
"""The file that makes a folder a discriminator: layout, backbone, dtype."""


class TurnScorer(nn.Module):
    """A token classifier read only at the positions asked for: [P] float32 log-odds.

    Args:
        classifier: ``AutoModelForTokenClassification`` with one label, or a PeftModel around one.
        autocast: compute the backbone in this dtype; None computes in the weights' own.
    """

    def __init__(self, classifier: nn.Module, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        self.autocast = autocast

    def forward(self, input_ids: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns the log-odds [P] at ``input_ids[rows, positions]`` of right-padded ids [B, n]."""
        inner = self.classifier.get_base_model() if hasattr(self.classifier, "peft_config") else self.classifier
        device = input_ids.device.type
        with torch.autocast(device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            hidden = getattr(inner, inner.base_model_prefix)(input_ids, use_cache=False).last_hidden_state
        with torch.autocast(device, enabled=False):
            return inner.score(inner.dropout(hidden[rows, positions].float())).squeeze(-1)


@dataclass(frozen=True)
class RowBatch:
    """Rows padded on the right, with where their log-odds stand."""

    input_ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor

    def to(self, device: torch.device | str) -> RowBatch:
        """Returns the batch on ``device``."""
        return RowBatch(self.input_ids.to(device), self.rows.to(device), self.positions.to(device))


def pad_rows(rows: Sequence[DiscriminatorRow], only_last: Sequence[bool] | None = None) -> RowBatch:
    """Returns rows as one batch; with ``only_last`` a row's last position alone is scored."""
    width = max(len(row.token_ids) for row in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    index, positions = [], []
    for i, row in enumerate(rows):
        input_ids[i, : len(row.token_ids)] = torch.tensor(row.token_ids, dtype=torch.long)
        wanted = row.positions[-1:] if only_last is not None and only_last[i] else row.positions
        index.extend([i] * len(wanted))
        positions.extend(wanted)
    return RowBatch(input_ids, torch.tensor(index, dtype=torch.long), torch.tensor(positions, dtype=torch.long))


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Returns indices in batches of like length, each of at most ``batch_tokens`` padded tokens (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.no_grad()
def score_rows(
    scorer: TurnScorer,
    rows: Sequence[DiscriminatorRow],
    *,
    batch_tokens: int = 16384,
    only_last: Sequence[bool] | None = None,
) -> list[np.ndarray]:
    """Returns per row the log-odds [T'] at its positions, float32, in the order of ``rows``."""
    last = [False] * len(rows) if only_last is None else only_last
    device = next(scorer.parameters()).device
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    was_training = scorer.training
    scorer.eval()
    for batch in length_batches([len(row.token_ids) for row in rows], batch_tokens):
        batch = [i for i in batch if rows[i].positions]
        if not batch:
            continue
        padded = pad_rows([rows[i] for i in batch], [last[i] for i in batch]).to(device)
        flat = scorer(padded.input_ids, padded.rows, padded.positions).float().cpu().numpy()
        sizes = [1 if last[i] else len(rows[i].positions) for i in batch]
        for i, part in zip(batch, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            scores[i] = part
    scorer.train(was_training)
    return scores


@dataclass
class LoadedDiscriminator:
    """A trained discriminator, ready to score. Build it with :meth:`load`."""

    scorer: TurnScorer
    chat: ChatFormat
    layout: DiscriminatorLayout
    batch_tokens: int = 16384

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | None = None, dtype: str | None = None, batch_tokens: int = 16384
    ) -> LoadedDiscriminator:
        """Returns the discriminator saved in the folder ``path``.

        Args:
            path: what ``trainers.discriminator`` wrote.
            device: None takes a GPU where there is one.
            dtype: compute dtype; None is the one it was trained in.
            batch_tokens: padded tokens in one forward pass.

        Raises:
            ConfigError: the folder is no discriminator, or its backbone is gone.
        """
        from transformers import AutoTokenizer

        root = Path(path)
        card = _read_card(root)
        classifier = load_classifier(root, card, dtype or card["dtype"])
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        autocast = torch.bfloat16 if (dtype or card["dtype"]) == "bfloat16" else None
        scorer = TurnScorer(classifier, autocast).to(where).eval()
        chat = chat_format(AutoTokenizer.from_pretrained(root))
        return cls(scorer, chat, DiscriminatorLayout(**card["layout"]), batch_tokens)

    def score(self, rows: Sequence[DiscriminatorRow]) -> list[np.ndarray]:
        """Returns per row the log-odds after each of its positions [T'], without the prior."""
        return score_rows(self.scorer, rows, batch_tokens=self.batch_tokens)

    def log_odds(self, rows: Sequence[DiscriminatorRow]) -> list[np.ndarray]:
        """Returns per row the log-odds [T + 1], index 0 the prior.

        Raises:
            OverlongError: a row was cut, so that some turns have no log-odds.
        """
        for row in rows:
            require_whole(row, self.layout.max_tokens)
        return [np.concatenate([[PRIOR_LOG_ODDS], s]) for s in self.score(rows)]

    def tree(self, session: Session, branches: Sequence[Branch] = (), system: str | None = None) -> DiscriminatorTree:
        """Returns a session and its branches laid out for :meth:`score_trees`."""
        return discriminator_tree(self.chat, self.layout, session, branches, system)

    def score_trees(self, trees: Sequence[DiscriminatorTree]) -> list[SessionScores]:
        """Returns the scores of sessions with their branches, all in the same batches."""
        rows: list[DiscriminatorRow] = []
        only_last: list[bool] = []
        for tree in trees:
            alternatives = [row for branch in tree.branches for row in branch]
            rows.extend([tree.trunk, *alternatives])
            only_last.extend([False] + [True] * len(alternatives))
        scores = iter(score_rows(self.scorer, rows, batch_tokens=self.batch_tokens, only_last=only_last))
        return [
            SessionScores(
                session_id=tree.trunk.session_id,
                log_odds=(PRIOR_LOG_ODDS, *map(float, next(scores))),
                branches=tuple(tuple(float(next(scores)[-1]) for _ in branch) for branch in tree.branches),
            )
            for tree in trees
        ]


def new_classifier(base_model: str, dtype: str, dropout: float = 0.0) -> nn.Module:
    """Returns a token classifier with one label on the causal model ``base_model``, its head float32 and zero.

    A zero head gives log-odds 0 everywhere: before it has learned, the discriminator says the prior.
    """
    classifier = _from_pretrained(base_model, dtype)
    classifier.dropout.p = dropout
    nn.init.zeros_(classifier.score.weight)
    if classifier.score.bias is not None:
        nn.init.zeros_(classifier.score.bias)
    return classifier


def load_classifier(root: Path, card: dict[str, Any], dtype: str) -> nn.Module:
    """Returns the classifier of a checkpoint folder: whole, or an adapter and head on its backbone."""
    if not card["lora"]:
        from safetensors.torch import load_file

        classifier = _from_pretrained(str(root), dtype)
        head = {k.removeprefix("score."): v for k, v in load_file(root / "head.safetensors").items()}
        classifier.score.load_state_dict(head)
        return classifier
    from peft import PeftModel

    if not Path(card["base_model"]).exists() and "/" in card["base_model"][:1]:
        raise ConfigError(f"{root / CARD}: the backbone {card['base_model']} is gone; put it back or train again")
    return PeftModel.from_pretrained(new_classifier(card["base_model"], dtype), str(root))


def save_classifier(
    classifier: nn.Module,
    path: str | Path,
    *,
    layout: DiscriminatorLayout,
    base_model: str,
    dtype: str,
    tokenizer: Any,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes a folder that :meth:`LoadedDiscriminator.load` reads; the card is written last."""
    from safetensors.torch import save_file

    root = Path(path)
    lora = hasattr(classifier, "peft_config")
    classifier.save_pretrained(root)
    if not lora:
        save_file(
            {k: v.float().contiguous() for k, v in classifier.score.state_dict().items()}, root / "head.safetensors"
        )
    tokenizer.save_pretrained(root)
    card = {"layout": layout.to_dict(), "base_model": base_model, "lora": lora, "dtype": dtype, **(extra or {})}
    (root / CARD).write_text(json.dumps(card, indent=1, sort_keys=True))


def _read_card(root: Path) -> dict[str, Any]:
    if not (root / CARD).is_file():
        raise ConfigError(f"{root}: expected a discriminator's folder ({CARD} is missing); train one first")
    return json.loads((root / CARD).read_text())


def _from_pretrained(path: str, dtype: str) -> Any:
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # else it warns that the head is new, which is the point
    try:
        classifier = AutoModelForTokenClassification.from_pretrained(path, num_labels=1, dtype=getattr(torch, dtype))
    finally:
        transformers_logging.set_verbosity(before)
    classifier.score.float()
    return classifier
