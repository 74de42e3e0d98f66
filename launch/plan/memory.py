"""The memory of one process on one GPU, by kind, in bytes. Every formula is worked by hand in ``tests/launch/plan``.

Elements of a decoder layer are counted per token, for a decoder with LoRA on all linear layers; the fused attention
kernels keep no matrix of scores. Independent of the run's settings and of the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from launch.plan.shapes import ModelShape
from rlenv.discriminator.reading import READ_LOGITS

FLOAT32, BFLOAT16 = 4, 2
ADAM_BYTES = 8
"""Two float32 moments of a trained parameter."""
LOGIT_BYTES = 14
"""Per kept logit in a training step: bfloat16 2, and in float32 the copy, its log-softmax and its gradient."""
MASK_BYTES = 3
"""Per pair of tokens of an explicit attention mask: a boolean, and its bfloat16 form."""
READ_BYTES = 18
"""Per kept logit where a discriminator reads: bfloat16 2, and in float32 four copies."""
TILE_BYTES = 4096 * 8192 * 4 * 2
"""TRL's DPO takes log-probs tile by tile (4,096 tokens by 8,192 words in float32) and never holds all logits."""
PREFILL_TOKENS = 8192
"""Prompt tokens that an engine processes in one step, at most."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on one GPU, and in the host's memory."""

    weights: float = 0.0
    """Of the model; where it is sharded, the shard and the layers that are gathered at one time."""
    adapter: float = 0.0
    optimizer: float = 0.0
    """Gradients and the optimiser's state."""
    activations: float = 0.0
    logits: float = 0.0
    kv_cache: float = 0.0
    runtime: float = 0.0
    """CUDA context, NCCL, workspaces."""
    host: float = 0.0
    """Not on the GPU: the copy of the model while it loads, or offloaded activations, whichever is more."""
    host_first: float = 0.0
    """In the host's memory while a sharded model loads: only the first process of a node reads it."""

    @property
    def total(self) -> float:
        """Bytes on the GPU."""
        return sum(self.by_kind().values())

    def by_kind(self) -> dict[str, float]:
        """Returns the bytes on the GPU by kind."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("host", "host_first")}


KINDS = tuple(Memory().by_kind())


def layer_elements(shape: ModelShape) -> int:
    """Returns the elements per token that one layer keeps for its backward pass.

    With hidden size h, feed-forward f, queries q and keys k: two residuals, two norms and the output (5h); the norms'
    inputs in float32 (2 x 2h); q and k before and after the rotation, the values, the attention's output (3q + 3k);
    gate, up, their activation and their product (4f).
    """
    q = shape.num_heads * shape.head_dim
    return 9 * shape.hidden_size + 3 * q + 3 * shape.kv_size + 4 * shape.intermediate_size


def backward_elements(shape: ModelShape) -> int:
    """Returns the further elements per token while one layer is differentiated.

    Gradients (2f + 2h), and a float32 copy of the widest input for LoRA (2f).
    """
    return 4 * shape.intermediate_size + 2 * shape.hidden_size


@dataclass(frozen=True)
class TrainingLoad:
    """What one training worker holds in a step."""

    shape: ModelShape
    workers: int
    rows: int
    """Sequences in one forward pass."""
    row_tokens: int
    """Tokens of each."""
    num_bytes: int = BFLOAT16
    """Of an activation, and of a frozen weight."""
    lora_rank: int | None = 8
    """None trains all weights, which are float32 then."""
    num_adapters: int = 1
    """2 with a frozen reference."""
    shard: bool = False
    checkpointing: bool = False
    offload: bool = False
    """Checkpointed activations wait in the host's memory."""
    logit_share: float = 0.0
    """Share of the tokens whose logits are held at once."""
    tiled_logits: bool = False
    masked: bool = False
    """Whether there is an explicit attention mask."""

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.rows * self.row_tokens


def training_memory(load: TrainingLoad, runtime: float = 0.0) -> Memory:
    """Returns the memory of one training worker."""
    shape, b, shards = load.shape, load.num_bytes, load.workers if load.shard else 1
    whole = load.lora_rank is None
    adapter = 0 if load.lora_rank is None else shape.lora_parameters(load.lora_rank)
    trained = shape.num_parameters if whole else adapter
    weight_bytes = FLOAT32 if whole else b
    gathered = (2 * shape.layer_parameters + shape.embedding_parameters) * b if shards > 1 else 0
    computed = shape.num_parameters * b if whole and b < FLOAT32 and shards == 1 else 0  # autocast's copies
    buckets = FLOAT32 if load.workers > 1 and shards == 1 else 0  # gradients on their way between workers
    kept, host_kept = _activations(load)
    return Memory(
        weights=shape.num_parameters * weight_bytes / shards + gathered + computed,
        adapter=adapter * FLOAT32 * load.num_adapters / shards,
        optimizer=trained * (FLOAT32 + ADAM_BYTES) / shards + trained * buckets,
        activations=kept,
        logits=TILE_BYTES if load.tiled_logits else load.tokens * load.logit_share * shape.vocab_size * LOGIT_BYTES,
        runtime=runtime,
        host=host_kept if shards > 1 else max(shape.num_parameters * weight_bytes, host_kept),
        host_first=shape.num_parameters * weight_bytes if shards > 1 else 0.0,
    )


def _activations(load: TrainingLoad) -> tuple[float, float]:
    """Returns the bytes of activations on the GPU and in the host's memory."""
    shape, b, tokens = load.shape, load.num_bytes, load.tokens
    layer = tokens * layer_elements(shape) * b
    now = tokens * backward_elements(shape) * b
    mask = load.rows * load.row_tokens**2 * MASK_BYTES if load.masked else 0
    if not load.checkpointing:
        return shape.num_layers * layer + now + mask, 0.0
    inputs = tokens * shape.hidden_size * b
    if load.offload:
        return 2 * inputs + layer + now + mask, shape.num_layers * inputs
    return shape.num_layers * inputs + layer + now + mask, 0.0


def reading_memory(
    shape: ModelShape, row_tokens: int, batch_tokens: int, num_bytes: int, runtime: float, masked: bool = False
) -> Memory:
    """Returns the memory of a whole model that only reads, as a ``likelihood`` discriminator does.

    Args:
        shape: the model.
        row_tokens: tokens of the longest row, with the branches of its session.
        batch_tokens: tokens in one forward pass, if a row has fewer.
        num_bytes: of a weight and of an activation.
        runtime: of the process.
        masked: rows have branches, and so an explicit attention mask.
    """
    tokens = max(row_tokens, batch_tokens)
    mask = tokens * row_tokens * MASK_BYTES if masked else 0
    return Memory(
        weights=shape.num_parameters * num_bytes,
        activations=tokens * (shape.hidden_size + layer_elements(shape)) * num_bytes + mask,
        logits=min(tokens * shape.vocab_size, READ_LOGITS) * READ_BYTES,
        runtime=runtime,
        host=shape.num_parameters * num_bytes,
    )


def scoring_memory(
    shape: ModelShape, row_tokens: int, batch_tokens: int, num_branches: int, num_bytes: int, runtime: float
) -> Memory:
    """Returns the memory of a classifier that scores one session with the branches of one turn.

    The session's key-value cache is kept, copied once for the turn, and then repeated for each branch.
    """
    return Memory(
        weights=shape.num_parameters * num_bytes,
        activations=max(row_tokens, batch_tokens) * layer_elements(shape) * num_bytes,
        kv_cache=(2 + num_branches) * row_tokens * shape.kv_bytes_per_token(num_bytes),
        runtime=runtime,
        host=shape.num_parameters * num_bytes,
    )


def engine_memory(
    shape: ModelShape,
    *,
    tensor_parallel: int,
    max_num_seqs: int,
    max_loras: int,
    max_lora_rank: int,
    num_bytes: int,
    budget: float,
    kv_bytes: float | None,
    runtime: float,
) -> Memory:
    """Returns the memory of an engine on each of its GPUs; what is left of ``budget`` is its key-value cache.

    Args:
        shape: the model.
        tensor_parallel: GPUs that share the weights.
        max_num_seqs: requests sampled at once, each with float32 logits and two copies.
        max_loras: adapters held at once, in bfloat16 and whole on each GPU.
        max_lora_rank: their largest rank.
        num_bytes: of a weight and of an element of the cache.
        budget: bytes on each GPU that the engine may take.
        kv_bytes: size of the cache, if it is set, over all GPUs; the budget plays no part then.
        runtime: of the process.
    """
    q, kv, f = shape.num_heads * shape.head_dim, shape.kv_size, shape.intermediate_size
    split = (q + 2 * kv + 3 * f) / tensor_parallel
    memory = Memory(
        weights=shape.num_parameters * num_bytes / tensor_parallel,
        adapter=max_loras * shape.lora_parameters(max_lora_rank) * BFLOAT16,
        activations=PREFILL_TOKENS * (4 * shape.hidden_size + split) * num_bytes,
        logits=max_num_seqs * shape.vocab_size * FLOAT32 * 3,
        runtime=runtime,
    )
    cache = budget - memory.total if kv_bytes is None else kv_bytes / tensor_parallel
    host = shape.num_parameters * num_bytes / tensor_parallel
    return Memory(**{**memory.by_kind(), "kv_cache": max(0.0, cache), "host": host})


def cache_tokens(shape: ModelShape, memory: Memory, tensor_parallel: int, num_bytes: int) -> int:
    """Returns the tokens that an engine's key-value cache holds; heads that GPUs cannot share are held by several."""
    heads = -(-shape.num_kv_heads // tensor_parallel)
    per_token = 2 * shape.num_layers * heads * shape.head_dim * num_bytes
    return int(memory.kv_cache // per_token)
