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
    chat: ChatFormat, messages: Sequence[Message], system: str, max_tokens: int, blank_user: bool = False
) -> ReadRow:
    """Returns the layout of a session, cut after the last whole user message that fits ``max_tokens``.

    Args:
        chat: the simulator's chat template.
        messages: of both seats, in order.
        system: the simulator's system message.
        max_tokens: the most tokens.
        blank_user: leave the user's messages empty (the leak control).
    """
    ids = list(chat.system_ids(system))
    targets: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    texts: list[str] = []
    for message in messages:
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


class Reader:
    """A causal language model that gives the statistics of tokens.

    Args:
        model: the simulator: base model with its adapter.
        chat: its chat template.
    """

    def __init__(self, model: Any, chat: ChatFormat) -> None:
        self.model = model.eval()
        self.chat = chat

    @classmethod
    def load(cls, base_model: str, adapter: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Reader:
        """Returns the model in ``base_model`` with the LoRA ``adapter`` merged into it."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(base_model, dtype=getattr(torch, dtype))
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        return cls(model.to(device), chat_format(AutoTokenizer.from_pretrained(base_model)))

    def statistics(self, row: ReadRow) -> TokenStatistics:
        """Returns the statistics of the row's ``targets``."""
        import torch

        device = self.model.device
        ids = torch.tensor([row.ids[:-1]], device=device)
        columns = torch.tensor(row.targets, device=device) - 1
        wanted = torch.tensor([row.ids[i] for i in row.targets], device=device)
        with torch.no_grad():
            output = self.model(ids, logits_to_keep=columns, output_hidden_states=True, use_cache=False)
        return _statistics(output.logits[0], output.hidden_states[-1][0, columns], wanted)

    def branches(self, row: ReadRow, branches: Sequence[tuple[int, Sequence[str]]]) -> list[list[TokenStatistics]]:
        """Returns the statistics of the tokens of texts that replace a message.

        Args:
            row: the session.
            branches: (turn, from 1; texts).
        """
        import torch

        if not any(texts for _, texts in branches):
            return [[] for _ in branches]
        starts = [row.starts[turn - 1] for turn, _ in branches]
        leaves = [
            TokenBranch(start, self.chat.reply_ids(text))
            for start, (_, texts) in zip(starts, branches, strict=True)
            for text in texts
        ]
        batch = tree_batch([TokenTree(row.ids[: max(starts)], tuple(leaves))])
        device = self.model.device
        with torch.no_grad():
            output = self.model(**batch.inputs(device), output_hidden_states=True)
        kept, columns = batch.kept.to(device), batch.columns.to(device)
        tokens = _statistics(
            output.logits[0, columns], output.hidden_states[-1][0, kept[columns]], batch.targets.to(device)
        )
        bounds = np.cumsum([len(leaf.ids) for leaf in leaves])[:-1]
        parts = [np.split(values, bounds) for values in vars(tokens).values()]
        each = iter([TokenStatistics(*part) for part in zip(*parts, strict=True)])
        return [[next(each) for _ in texts] for _, texts in branches]


def _statistics(logits: Any, hidden: Any, targets: Any) -> TokenStatistics:
    """Returns the statistics of ``targets`` [n] under logits [n, V], predicted from hidden states [n, d]."""
    logits = logits.float()
    log_probs = logits.log_softmax(-1)
    log_prob = log_probs.gather(1, targets[:, None])
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    rank = (log_probs > log_prob).sum(-1).float().log1p()
    arrays = (x.float().cpu().numpy() for x in (log_prob[:, 0], entropy, rank, hidden))
    return TokenStatistics(*arrays)
