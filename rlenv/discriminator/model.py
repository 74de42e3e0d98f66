"""The discriminator's model: a token classifier on a causal backbone, its checkpoint folder, and its scoring (Eq. 2).

``AutoModelForTokenClassification`` with one label. The log-odds of *real* at a user message are the logit at its
end-of-turn token, or the sum of the logits up to it (``Evidence``). The backbone may compute in bfloat16; the score
head and the logits are always float32, because Eq. 4 takes differences of log-odds, for which bfloat16 is too coarse.
With causal attention and padding on the right, a position never sees padding or later tokens, so no attention mask is
passed.

Needs torch and transformers (and peft for a LoRA checkpoint). Independent of training loops and callers; the token
layout is in ``rlenv.discriminator.rows``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rlenv.core.adapters import tidy_adapter
from rlenv.core.errors import ConfigError
from rlenv.core.files import read_json
from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.core.progress import progressed
from rlenv.core.types import Branch, Session, SessionScores
from rlenv.discriminator.rows import (
    DiscriminatorLayout,
    DiscriminatorRow,
    DiscriminatorTree,
    Evidence,
    discriminator_tree,
    require_whole,
)
from rlenv.prompting.chat_format import ChatFormat, chat_format

CARD = "discriminator.json"
"""The file that describes a discriminator's folder: layout, evidence, backbone, dtype."""
TOKENS_OF_ONE = 64.0
"""With ``sum``, logits are divided by this, so that a step of the head changes a session about as much as with
``last``."""


class TurnScorer(nn.Module):
    """A token classifier evaluated only at the requested positions: [P] float32 log-odds.

    Args:
        classifier: ``AutoModelForTokenClassification`` with one label, or a PeftModel around one.
        autocast: dtype of the backbone's computation; None uses the dtype of the weights.
        evidence: how the log-odds of a turn are computed.
    """

    def __init__(self, classifier: nn.Module, autocast: torch.dtype | None = None, evidence: Evidence = "last") -> None:
        super().__init__()
        self.classifier = classifier
        self.autocast = autocast
        self.evidence = evidence

    def forward(self, input_ids: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns the log-odds [P] at ``input_ids[rows, positions]`` of right-padded ids [B, n]."""
        hidden, _ = self.hidden(input_ids)
        return self.log_odds(hidden, rows, positions)

    def log_odds(
        self, hidden: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, before: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """Returns the log-odds [P] at ``hidden[rows, positions]`` of hidden states [B, n, d].

        Args:
            hidden: hidden states of the tokens that follow those counted in ``before``.
            rows: [P] row indices.
            positions: [P] positions in these rows.
            before: with ``sum``, the sum over the tokens before ``hidden``.
        """
        if self.evidence == "last":
            return self.head(hidden[rows, positions])
        return before + self.sums(hidden)[rows, positions]

    def sums(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the running sums of the scaled logits [B, n], for hidden states [B, n, d]."""
        return self.head(hidden).cumsum(dim=1) / TOKENS_OF_ONE

    def hidden(self, input_ids: torch.Tensor, past: Any | None = None, keep: bool = False) -> tuple[torch.Tensor, Any]:
        """Returns (last hidden states [B, n, d], key-value cache) of ids that continue ``past``.

        Args:
            input_ids: [B, n], right-padded.
            past: key-value cache of the preceding tokens, of the same batch size; None if there are none.
            keep: return the cache extended by ``input_ids``; otherwise None is returned in its place.
        """
        inner = self._inner()
        with torch.autocast(
            input_ids.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
        ):
            backbone = getattr(inner, inner.base_model_prefix)
            output = backbone(input_ids, past_key_values=past, use_cache=keep or past is not None)
        return output.last_hidden_state, output.past_key_values if keep else None

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the logits [...] of hidden states [..., d], in float32."""
        inner = self._inner()
        with torch.autocast(hidden.device.type, enabled=False):
            return inner.score(inner.dropout(hidden.float())).squeeze(-1)

    def _inner(self) -> Any:
        classifier: Any = self.classifier
        return classifier.get_base_model() if hasattr(classifier, "peft_config") else classifier


@dataclass(frozen=True)
class RowBatch:
    """Rows padded on the right, with the positions of their log-odds."""

    input_ids: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor

    def to(self, device: torch.device | str) -> RowBatch:
        """Returns the batch on ``device``."""
        return RowBatch(self.input_ids.to(device), self.rows.to(device), self.positions.to(device))


def pad_rows(rows: Sequence[DiscriminatorRow]) -> RowBatch:
    """Returns the rows as one batch."""
    width = max(len(row.token_ids) for row in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    index: list[int] = []
    positions: list[int] = []
    for i, row in enumerate(rows):
        input_ids[i, : len(row.token_ids)] = torch.tensor(row.token_ids, dtype=torch.long)
        index.extend([i] * len(row.positions))
        positions.extend(row.positions)
    return RowBatch(input_ids, torch.tensor(index, dtype=torch.long), torch.tensor(positions, dtype=torch.long))


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Returns indices in batches of similar length, each of at most ``batch_tokens`` padded tokens (or one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@torch.no_grad()
def score_rows(scorer: TurnScorer, rows: Sequence[DiscriminatorRow], *, batch_tokens: int = 16384) -> list[np.ndarray]:
    """Returns for each row the log-odds [T'] at its positions, float32, in the order of ``rows``."""
    device = next(scorer.parameters()).device
    scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    was_training = scorer.training
    scorer.eval()
    for batch in length_batches([len(row.token_ids) for row in rows], batch_tokens):
        batch = [i for i in batch if rows[i].positions]
        if not batch:
            continue
        padded = pad_rows([rows[i] for i in batch]).to(device)
        flat = scorer(padded.input_ids, padded.rows, padded.positions).float().cpu().numpy()
        sizes = [len(rows[i].positions) for i in batch]
        for i, part in zip(batch, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
            scores[i] = part
        progressed()
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
            path: a folder written by ``trainers.discriminator.fit``.
            device: None uses a GPU if there is one.
            dtype: compute dtype; None uses that of training.
            batch_tokens: padded tokens in one forward pass.

        Raises:
            ConfigError: the folder is not a discriminator's, or its backbone is missing.
        """
        from transformers import AutoTokenizer

        root = Path(path)
        card = _read_card(root)
        classifier = load_classifier(root, card, dtype or card["dtype"])
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        autocast = torch.bfloat16 if (dtype or card["dtype"]) == "bfloat16" else None
        scorer = TurnScorer(classifier, autocast, card.get("evidence", "last")).to(where).eval()
        chat = chat_format(AutoTokenizer.from_pretrained(root))
        return cls(scorer, chat, DiscriminatorLayout(**card["layout"]), batch_tokens)

    def score(self, rows: Sequence[DiscriminatorRow]) -> list[np.ndarray]:
        """Returns for each row the log-odds at its positions [T'], without the prior."""
        return score_rows(self.scorer, rows, batch_tokens=self.batch_tokens)

    def log_odds(self, rows: Sequence[DiscriminatorRow]) -> list[np.ndarray]:
        """Returns for each row the log-odds [T + 1]; index 0 is the prior.

        Raises:
            OverlongError: a row was cut, so some turns have no log-odds.
        """
        for row in rows:
            require_whole(row, self.layout.max_tokens)
        return [np.concatenate([[PRIOR_LOG_ODDS], s]) for s in self.score(rows)]

    def tree(self, session: Session, branches: Sequence[Branch] = (), system: str | None = None) -> DiscriminatorTree:
        """Returns the token layout of a session and its branches, for :meth:`score_trees`."""
        return discriminator_tree(self.chat, self.layout, session, branches, system)

    def score_trees(self, trees: Sequence[DiscriminatorTree]) -> list[SessionScores]:
        """Returns the scores of sessions with their branches; tokens that branches share are processed once."""
        plain = [tree.trunk for tree in trees if not tree.branches]
        log_odds = iter(score_rows(self.scorer, plain, batch_tokens=self.batch_tokens))
        return [
            score_tree(self.scorer, tree)
            if tree.branches
            else SessionScores(session_id=tree.trunk.session_id, log_odds=(PRIOR_LOG_ODDS, *map(float, next(log_odds))))
            for tree in trees
        ]


@torch.no_grad()
def score_tree(scorer: TurnScorer, tree: DiscriminatorTree) -> SessionScores:
    """Returns the scores of one session with its branches, each continued from the session's key-value cache.

    An alternative costs only its own tokens, so the gain grows with the length of the conversation.
    """
    device = next(scorer.parameters()).device
    was_training = scorer.training
    scorer.eval()
    trunk = torch.tensor([tree.trunk.token_ids], dtype=torch.long, device=device)
    hidden, cache = scorer.hidden(trunk, keep=True)
    at = torch.tensor(tree.trunk.positions, dtype=torch.long, device=device)
    log_odds = scorer.log_odds(hidden, torch.zeros_like(at), at)
    sums = scorer.sums(hidden)[0] if scorer.evidence == "sum" else None
    branches = []
    for rows, shared in zip(tree.branches, tree.num_shared, strict=True):
        if not rows:
            branches.append(())
            continue
        shared = min(shared, *(row.positions[-1] for row in rows))  # the scored token itself is always computed
        past = copy.deepcopy(cache)
        if surplus := len(tree.trunk.token_ids) - shared:
            past.crop(-surplus)
        past.batch_repeat_interleave(len(rows))
        rests = [DiscriminatorRow(r.session_id, r.token_ids[shared:], (r.positions[-1] - shared,), 1) for r in rows]
        padded = pad_rows(rests).to(device)
        ends, _ = scorer.hidden(padded.input_ids, past)
        before = sums[shared - 1] if sums is not None and shared else 0.0
        branches.append(tuple(scorer.log_odds(ends, padded.rows, padded.positions, before).tolist()))
    scorer.train(was_training)
    return SessionScores(
        session_id=tree.trunk.session_id,
        log_odds=(PRIOR_LOG_ODDS, *log_odds.tolist()),
        branches=tuple(branches),
    )


def new_classifier(base_model: str, dtype: str, dropout: float = 0.0) -> Any:
    """Returns a token classifier with one label on the causal model ``base_model``; its head is float32 and zero.

    A zero head gives log-odds 0 everywhere: an untrained discriminator predicts the prior.
    """
    classifier = _from_pretrained(base_model, dtype)
    classifier.dropout.p = dropout
    nn.init.zeros_(classifier.score.weight)
    if classifier.score.bias is not None:
        nn.init.zeros_(classifier.score.bias)
    return classifier


def load_classifier(root: Path, card: dict[str, Any], dtype: str) -> nn.Module:
    """Returns the classifier of a checkpoint folder: the full model, or an adapter and head on its backbone."""
    if not card["lora"]:
        from safetensors.torch import load_file

        classifier = _from_pretrained(str(root), dtype)
        head = {k.removeprefix("score."): v for k, v in load_file(root / "head.safetensors").items()}
        classifier.score.load_state_dict(head)
        return classifier
    from peft import PeftModel

    backbone = Path(card["base_model"])
    if backbone.is_absolute() and not backbone.exists():
        raise ConfigError(f"{root / CARD}: the backbone {backbone} does not exist; restore it or train again")
    return PeftModel.from_pretrained(new_classifier(card["base_model"], dtype), str(root))


def save_classifier(
    classifier: Any,
    path: str | Path,
    *,
    layout: DiscriminatorLayout,
    base_model: str,
    dtype: str,
    tokenizer: Any,
    evidence: Evidence = "last",
) -> None:
    """Writes a folder that :meth:`LoadedDiscriminator.load` reads; the card is written last."""
    from safetensors.torch import save_file

    root = Path(path)
    lora = hasattr(classifier, "peft_config")
    classifier.save_pretrained(root)
    if lora:
        tidy_adapter(root)
    else:
        save_file(
            {k: v.float().contiguous() for k, v in classifier.score.state_dict().items()}, root / "head.safetensors"
        )
    tokenizer.save_pretrained(root)
    card = {
        "layout": layout.to_dict(), "evidence": evidence, "base_model": base_model, "lora": lora, "dtype": dtype,
    }  # fmt: skip
    (root / CARD).write_text(json.dumps(card, indent=1, sort_keys=True))


def _read_card(root: Path) -> dict[str, Any]:
    if not (root / CARD).is_file():
        raise ConfigError(
            f"{root}: expected a discriminator's folder, but {CARD} is missing; train a discriminator first"
        )
    return read_json(root / CARD)


def _from_pretrained(path: str, dtype: str) -> Any:
    from transformers import AutoModelForTokenClassification
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would warn that the head is new, as intended
    try:
        classifier = AutoModelForTokenClassification.from_pretrained(path, num_labels=1, dtype=getattr(torch, dtype))
    finally:
        transformers_logging.set_verbosity(before)
    classifier.score.float()
    return classifier
