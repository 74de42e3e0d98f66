"""The shape of a model, from its ``config.json``: parameters, adapter, key-value cache and arithmetic.

Covers dense decoders of the Llama and Qwen families: grouped attention and a gated feed-forward layer. Independent of
hardware and of runs; loads no weights and asks no hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlenv.core.errors import ConfigError, there_are
from rlenv.models.named import population_llama
from trainers.pretrain.config import PretrainConfig

DENSE = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose shape is understood."""
KNOWN = Path(__file__).with_name("known_models.yaml")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense decoder."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    tied: bool = False
    """Whether the output layer is the embedding."""
    qkv_bias: bool = False
    """Query, key and value have biases (Qwen2)."""
    qk_norm: bool = False
    """Queries and keys are normalised per head (Qwen3)."""

    @property
    def linear_layers(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        h, f, q, kv = self.hidden_size, self.intermediate_size, self.num_heads * self.head_dim, self.kv_size
        return (h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)

    @property
    def kv_size(self) -> int:
        """Width of the keys of one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        biases = self.num_heads * self.head_dim + 2 * self.kv_size if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return sum(i * o for i, o in self.linear_layers) + biases + norms

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, which are those of the output layer too."""
        return self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.num_layers * self.layer_parameters + embeddings + self.hidden_size

    def lora_parameters(self, rank: int) -> int:
        """Returns the parameters of an adapter on all linear layers of the decoder (Table 6's "all-linear")."""
        return self.num_layers * sum(rank * (i + o) for i, o in self.linear_layers)

    def kv_bytes_per_token(self, num_bytes: int = 2) -> int:
        """Returns the bytes of the key-value cache for one token."""
        return 2 * self.num_layers * self.kv_size * num_bytes

    def forward_flops(self, tokens: float, length: float) -> float:
        """Returns the operations of a forward pass over ``tokens`` in causal rows of ``length`` tokens.

        Two per weight and token, and for attention 2 x length x width per token and layer: queries times keys and
        weights times values, each over half of the row on average.
        """
        weights = self.num_layers * sum(i * o for i, o in self.linear_layers) + self.embedding_parameters
        attention = 2 * self.num_layers * length * self.num_heads * self.head_dim
        return tokens * (2.0 * weights + attention)


@dataclass(frozen=True)
class Model:
    """A model's name, its shape and where the shape comes from."""

    name: str
    shape: ModelShape
    source: str


def shape_from_config(config: Mapping[str, Any], where: object) -> ModelShape:
    """Returns the shape that a ``config.json`` describes.

    Raises:
        ConfigError: another kind of model, or a size is missing.
    """
    kind = config.get("model_type")
    if kind not in DENSE:
        raise ConfigError(f"{where}: a plan covers dense models of type {', '.join(DENSE)}, got {kind!r}")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            hidden_size=hidden,
            num_layers=int(config["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate_size=int(config["intermediate_size"]),
            vocab_size=int(config["vocab_size"]),
            max_positions=int(config["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
            qk_norm=kind == "qwen3",
        )
    except KeyError as error:
        raise ConfigError(f"{where}: the model's config lacks {error}") from None


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Returns the configs of ``known_models.yaml`` by name."""
    known: dict[str, dict[str, Any]] = yaml.safe_load(KNOWN.read_text())
    return known


def find_model(name: str, pretrain: PretrainConfig = PretrainConfig()) -> Model:
    """Returns the model ``name`` of a configuration.

    Looks in a local folder, in the package, in the Hugging Face cache, and last in ``known_models.yaml``.

    Args:
        name: a folder, a hub name, "population-llama", "small-llama" or "smollm2".
        pretrain: the shape of "small-llama".

    Raises:
        ConfigError: the shape is found nowhere, or the model is of another kind.
    """
    if name == "small-llama":
        return Model(name, _small_llama(pretrain), "the settings pretrain")
    folder = population_llama() if name == "population-llama" else Path(name).expanduser()
    path = folder / "config.json"
    if not path.is_file() and (cached := _cached(name)):
        path = cached
    if path.is_file():
        return Model(name, shape_from_config(json.loads(path.read_text()), path), str(path))
    if name in known_models():
        return Model(name, shape_from_config(known_models()[name], KNOWN.name), KNOWN.name)
    raise ConfigError(
        f"the shape of the model {name!r} is not known here: {there_are(known_models(), name)}; or name a folder with "
        "its config.json, or put that file into the Hugging Face cache"
    )


def _cached(name: str) -> Path | None:
    """Returns the model's config in the Hugging Face cache; asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # not a hub name
        return None
    return Path(found) if isinstance(found, str) else None


def _small_llama(config: PretrainConfig) -> ModelShape:
    return ModelShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        tied=True,
    )
