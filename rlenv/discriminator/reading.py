"""What a simulator's own model thinks of the user's words: log-probs, entropies, ranks and hidden states of tokens.

A session is laid out as the simulator reads it: the context, the chatbot's messages and the user's past stand before
each of the user's tokens. Needs torch and transformers (and peft for the adapter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlenv.core.types import Message
from rlenv.discriminator.rows import View
from rlenv.models.tree_batch import TokenBranch, TokenTree, tree_batch
from rlenv.prompting.chat_format import ChatFormat, chat_format


@dataclass(frozen=True)
class ReadRow:
    """A session as the simulator reads it."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    """Indices of the user's tokens in ``ids``, each message with its end token."""
    starts: tuple[int, ...]
    """[T'] index in ``ids`` of the first token of each message; T' is below ``num_turns`` if the session was cut."""
    ends: tuple[int, ...]
    """[T'] number of ``targets`` up to the end of each message."""
    texts: tuple[str, ...]
    """[T'] the messages."""
    num_turns: int


def read_row(
    chat: ChatFormat,
    messages: Sequence[Message],
    system: str,
    max_tokens: int,
    *,
    view: View = "full",
    blank_user: bool = False,
) -> ReadRow:
    """Returns the layout of a session, cut after the last whole user message that fits ``max_tokens``.

    Args:
        chat: the simulator's chat template.
        messages: of both seats, in order.
        system: the simulator's system message.
        max_tokens: the most tokens.
        view: ``user_only`` leaves the chatbot's messages out.
        blank_user: leave the user's messages empty (the leak control).
    """
    ids = list(chat.system_ids(system))
    targets: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    texts: list[str] = []
    for message in messages:
        if message.role != "user" and view == "user_only":
            continue
        if message.role != "user":
            ids.extend((*chat.other.before, *chat.encode(message.content), *chat.other.after))
            continue
        text = "" if blank_user else message.content.strip()
        start = len(ids) + len(chat.own.before)
        body = chat.reply_ids(text)
        if start + len(body) > max_tokens:
            break
        ids.extend((*chat.own.before, *body))
        targets.extend(range(start, start + len(body)))
        starts.append(start)
        ends.append(len(targets))
        texts.append(text)
        ids.extend(chat.own.after[1:])
    last = targets[-1] + 1 if targets else len(ids)
    num_turns = sum(m.role == "user" for m in messages)
    return ReadRow(tuple(ids[:last]), tuple(targets), tuple(starts), tuple(ends), tuple(texts), num_turns)


@dataclass(frozen=True)
class TokenStatistics:
    """What a model thinks of n tokens."""

    log_prob: np.ndarray
    """[n]"""
    entropy: np.ndarray
    """[n] of the distribution that the token was drawn from, in nats."""
    rank: np.ndarray
    """[n] log(1 + number of tokens that were more probable)."""
    hidden: np.ndarray
    """[n, d] the last hidden state that the token was predicted from."""

    def first(self, count: int) -> TokenStatistics:
        """Returns the statistics of the first ``count`` tokens."""
        return TokenStatistics(self.log_prob[:count], self.entropy[:count], self.rank[:count], self.hidden[:count])

    def then(self, other: TokenStatistics) -> TokenStatistics:
        """Returns these and then the other's tokens."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return TokenStatistics(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Reading:
    """The statistics of a session."""

    own: TokenStatistics
    """Of the row's ``targets``."""
    branches: tuple[tuple[TokenStatistics, ...], ...]
    """Of the tokens of each text that replaces a message, by branch."""


Texts = Sequence[tuple[int, Sequence[str]]]
"""(turn, from 1; texts that replace its message)."""

READ_TOKENS = 16384
"""Tokens in one forward pass, including padding, unless another number is given."""
READ_LOGITS = 2**26
"""The most logits that are computed at once."""


class Reader:
    """A causal language model that gives the statistics of tokens.

    Args:
        model: the simulator: base model with its adapter.
        chat: its chat template.
        batch_tokens: tokens in one forward pass, including padding. A CPU reads one session after the other: batches
            are no faster there, and sums would depend on who is in them.
    """

    def __init__(self, model: Any, chat: ChatFormat, batch_tokens: int = READ_TOKENS) -> None:
        self.model = model.eval()
        self.chat = chat
        self.batch_tokens = batch_tokens

    @classmethod
    def load(
        cls,
        base_model: str,
        adapter: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        batch_tokens: int = READ_TOKENS,
    ) -> Reader:
        """Returns the model in ``base_model`` with the LoRA ``adapter`` merged into it."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(base_model, dtype=getattr(torch, dtype))
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        return cls(model.to(device), chat_format(AutoTokenizer.from_pretrained(base_model)), batch_tokens)

    def read(self, rows: Sequence[ReadRow], branches: Sequence[Texts] | None = None) -> list[Reading]:
        """Returns the statistics of sessions and of texts that replace some of their messages.

        A session is in one row with its branches, and tokens that they share are processed once.

        Args:
            rows: sessions with at least one user message each.
            branches: for each session; None are none.
        """
        branches = branches or [()] * len(rows)
        trees = [
            TokenTree(
                row.ids[:-1],
                tuple(
                    TokenBranch(row.starts[turn - 1], self.chat.reply_ids(text))
                    for turn, texts in each
                    for text in texts
                ),
            )
            for row, each in zip(rows, branches, strict=True)
        ]
        found: list[Reading] = []
        for part in self._batches(trees):
            found.extend(self._read(trees[part], rows[part], branches[part]))
        return found

    def _batches(self, trees: Sequence[TokenTree]) -> list[slice]:
        most = 0 if self.model.device.type == "cpu" else self.batch_tokens
        batches, start, width = [], 0, 0
        for i, tree in enumerate(trees):
            width = max(width, tree.num_tokens())
            if i > start and (i + 1 - start) * width > most:
                batches.append(slice(start, i))
                start, width = i, tree.num_tokens()
        return [*batches, slice(start, len(trees))] if trees else []

    def _read(self, trees: Sequence[TokenTree], rows: Sequence[ReadRow], branches: Sequence[Texts]) -> list[Reading]:
        import torch

        batch, device = tree_batch(trees), self.model.device
        inputs = batch.inputs(device)
        del inputs["logits_to_keep"]
        own_rows = [i for i, row in enumerate(rows) for _ in row.targets]
        own_columns = [target - 1 for row in rows for target in row.targets]
        wanted = [row.ids[target] for row in rows for target in row.targets]
        at_row = torch.cat([torch.tensor(own_rows, dtype=torch.long), batch.rows]).to(device)
        at_column = torch.cat([torch.tensor(own_columns, dtype=torch.long), batch.kept[batch.columns]]).to(device)
        targets = torch.cat([torch.tensor(wanted, dtype=torch.long), batch.targets]).to(device)
        with torch.no_grad():
            hidden = self.model.get_decoder()(**inputs).last_hidden_state[at_row, at_column]
            head = self.model.get_output_embeddings()
            size = max(1, READ_LOGITS // head.weight.shape[0])
            parts = [
                _statistics(head(hidden[i : i + size]), hidden[i : i + size], targets[i : i + size])
                for i in range(0, len(targets), size)
            ]
        lengths = [len(row.targets) for row in rows] + [len(b.ids) for tree in trees for b in tree.branches]
        bounds = np.cumsum(lengths)[:-1]
        arrays = [
            np.split(np.concatenate(each), bounds) for each in zip(*(vars(p).values() for p in parts), strict=True)
        ]
        each = [TokenStatistics(*part) for part in zip(*arrays, strict=True)]
        leaves = iter(each[len(rows) :])
        return [
            Reading(own, tuple(tuple(next(leaves) for _ in texts) for _, texts in here))
            for own, here in zip(each[: len(rows)], branches, strict=True)
        ]


def _statistics(logits: Any, hidden: Any, targets: Any) -> TokenStatistics:
    """Returns the statistics of ``targets`` [n] under logits [n, V], predicted from hidden states [n, d]."""
    logits = logits.float()
    log_probs = logits.log_softmax(-1)
    log_prob = log_probs.gather(1, targets[:, None])
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    rank = (log_probs > log_prob).sum(-1).float().log1p()
    arrays = (x.float().cpu().numpy() for x in (log_prob[:, 0], entropy, rank, hidden))
    return TokenStatistics(*arrays)
