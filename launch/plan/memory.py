"""The memory of one process on one GPU, by kind, in bytes. Every formula is worked by hand in ``tests/launch/plan``.

What a decoder layer keeps is counted per token, as autograd saves it (a test compares the two); the fused attention
kernels keep no matrix of scores. Independent of the run's settings and of the GPU. On a CPU the same tensors take the
same bytes; what differs there is said where it is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from launch.plan.shapes import ModelShape
from rlenv.discriminator.reading import READ_LOGITS

FLOAT32, BFLOAT16 = 4, 2
ADAM_BYTES = 8
"""Two float32 moments of a trained parameter."""
LOGIT_BYTES = 12
"""Per kept logit in a training step, all in float32: the log-softmax, its gradient, and the gradient of the logits."""
READ_BYTES = 16
"""Per kept logit where a discriminator reads, in float32: logits, log-softmax, probabilities and their product."""
TILE_TOKENS, TILE_WORDS = 4096, 32768
"""TRL's DPO takes log-probs tile by tile and never holds all logits."""
TILE_COPIES_CPU = 7 * FLOAT32 + 1
"""Bytes per element of a tile in its gradient on a CPU, where torch computes what one kernel does on a GPU: seven
arrays in float32 and a boolean."""
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


def layer_bytes(shape: ModelShape, num_bytes: int, rank: int | None = None, masked: bool = False) -> int:
    """Returns the bytes per token that one layer keeps for its backward pass, without the mask itself.

    With hidden size h, feed-forward f, queries q and keys k. Norms compute in float32 and keep their input; one with a
    trained weight keeps the normalised input too. Attention keeps queries, keys, values and output; under an explicit
    mask, keys and values are repeated for every head. The feed-forward layer keeps gate, its activation and up. With
    autocast (bfloat16), each of the seven matrix products of an adapter keeps its own copy of its input (5h + q + f),
    and otherwise they share it. LoRA adds r for each of the seven.

    Args:
        shape: the model.
        num_bytes: of a number in the matrix products; 2 computes with autocast.
        rank: of the adapter; None trains all weights.
        masked: whether there is an explicit attention mask.
    """
    h, f, q, b = shape.hidden_size, shape.intermediate_size, shape.num_heads * shape.head_dim, num_bytes
    attention = 4 * q if masked else 2 * q + 2 * shape.kv_size
    statistics = FLOAT32 * (shape.num_heads + 2)
    norms = 2 * h * FLOAT32 * (2 if rank is None else 1)
    if b == FLOAT32:  # products of one input share it: the norms' outputs, and the feed-forward's product
        return norms + FLOAT32 * (2 * h + attention + 4 * f + 7 * (rank or 0)) + statistics
    inputs = 5 * h + f + (q if rank is not None else 0)
    return norms + b * (inputs + attention + 3 * f + 7 * (rank or 0)) + statistics


def backward_elements(shape: ModelShape) -> int:
    """Returns the further elements per token while one layer is differentiated.

    Gradients (2f + 2h), and a float32 copy of the widest input for LoRA (2f).
    """
    return 4 * shape.intermediate_size + 2 * shape.hidden_size


def reading_elements(shape: ModelShape) -> int:
    """Returns the elements per token of a forward pass without gradients, at its widest: in the feed-forward layer.

    The residual, the norm's input and output (3h); the activated gate, up and their product (3f).
    """
    return 3 * shape.hidden_size + 3 * shape.intermediate_size


@dataclass(frozen=True)
class Beside:
    """Rows of another form in the same step, whose loss is added: they are read last, and differentiated first."""

    rows: int
    row_tokens: int
    logit_share: float


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
    """Share of the tokens that have logits."""
    tiled_logits: bool = False
    """Logits are held for a tile of tokens and words at a time."""
    masked: bool = False
    """Whether there is an explicit attention mask."""
    beside: Beside | None = None
    """Rows without a mask in the same step."""
    on_cpu: bool = False

    def of_beside(self) -> TrainingLoad:
        """Returns the load that a step would be with the rows of ``beside`` alone."""
        assert self.beside is not None
        own, tokens, share = self.beside.rows, self.beside.row_tokens, self.beside.logit_share
        changes: dict[str, Any] = {"masked": False, "tiled_logits": False, "beside": None}
        return replace(self, rows=own, row_tokens=tokens, logit_share=share, **changes)

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.rows * self.row_tokens


def training_memory(load: TrainingLoad, runtime: float = 0.0) -> Memory:
    """Returns the memory of one training worker.

    The loss's logits are gone when the layers are differentiated: of the two, only the larger counts. Where there are
    rows beside, theirs are differentiated while the activations and log-softmax of the others wait.
    """
    shape, b, shards = load.shape, load.num_bytes, load.workers if load.shard else 1
    whole = load.lora_rank is None
    adapter = 0 if load.lora_rank is None else shape.lora_parameters(load.lora_rank)
    trained = shape.num_parameters if whole else adapter
    weight_bytes = FLOAT32 if whole else b
    gathered = (2 * shape.layer_parameters + shape.embedding_parameters) * b if shards > 1 else 0
    products = shape.num_layers * shape.layer_parameters
    computed = products * b if whole and b < FLOAT32 and shards == 1 else 0  # autocast's copies
    buckets = FLOAT32 if load.workers > 1 and shards == 1 else 0  # gradients on their way between workers
    kept, now, logits, host_kept = _step(load)
    return Memory(
        weights=shape.num_parameters * weight_bytes / shards + gathered + computed,
        adapter=adapter * FLOAT32 * load.num_adapters / shards,
        optimizer=trained * (FLOAT32 + ADAM_BYTES) / shards + trained * buckets,
        activations=kept + now,
        logits=logits,
        runtime=runtime,
        host=host_kept if shards > 1 else max(shape.num_parameters * weight_bytes, host_kept),
        host_first=shape.num_parameters * weight_bytes if shards > 1 else 0.0,
    )


def _step(load: TrainingLoad) -> tuple[float, float, float, float]:
    """Returns the bytes at the peak of a step: of activations that wait, of a layer that is differentiated, of logits;
    and of activations in the host's memory."""
    kept, backward, host = _activations(load)
    logits = _logits(load)
    now, held = (backward, 0.0) if backward > logits else (0.0, logits)
    if load.beside is None:
        return kept, now, held, host
    other = load.of_beside()
    other_kept, other_now, other_held, other_host = _step(other)
    waiting = load.tokens * load.logit_share * load.shape.vocab_size * FLOAT32
    first = kept + other_kept + other_now + other_held + waiting
    host += other_host
    if first > kept + now + held:
        return kept + other_kept, other_now, other_held + waiting, host
    return kept, now, held, host


def _activations(load: TrainingLoad) -> tuple[float, float, float]:
    """Returns the bytes of activations that wait for the backward pass, those while one layer is differentiated, and
    those in the host's memory."""
    shape, b, tokens = load.shape, load.num_bytes, load.tokens
    # Each layer keeps the mask in the form that its attention kernel takes; the model holds a boolean.
    mask = tokens * load.row_tokens if load.masked else 0
    layer = tokens * layer_bytes(shape, b, load.lora_rank, load.masked) + mask * b
    ends = tokens * shape.hidden_size * (FLOAT32 + b) + mask  # the last norm's input in float32, and the last state
    now = tokens * backward_elements(shape) * b
    if not load.checkpointing:
        return shape.num_layers * layer + ends, now, 0.0
    inputs = tokens * shape.hidden_size * b
    if load.offload:
        return 2 * inputs + ends, layer + now, shape.num_layers * inputs
    return shape.num_layers * inputs + ends, layer + now, 0.0


def _logits(load: TrainingLoad) -> float:
    """Returns the bytes of the loss's logits."""
    scored = load.tokens * load.logit_share
    if not load.tiled_logits:
        return scored * load.shape.vocab_size * LOGIT_BYTES
    tokens = min(scored, TILE_TOKENS)
    if load.on_cpu:  # pages that are not written take no memory
        return tokens * min(load.shape.vocab_size, TILE_WORDS) * (load.num_bytes + TILE_COPIES_CPU)
    return tokens * TILE_WORDS * load.num_bytes


def reading_memory(
    shape: ModelShape, row_tokens: int, batch_tokens: int, num_bytes: int, runtime: float, masked: bool = False
) -> Memory:
    """Returns the memory of a whole model that only reads, as a ``likelihood`` discriminator does.

    Args:
        shape: the model.
        row_tokens: tokens of the longest row, with the branches of its session.
        batch_tokens: tokens in one forward pass, if a row has fewer; 0 on a CPU, which reads one row after the other.
        num_bytes: of a weight and of an activation.
        runtime: of the process.
        masked: rows have branches, and so an explicit attention mask.
    """
    tokens = max(row_tokens, batch_tokens)
    mask = tokens * row_tokens * (1 + num_bytes) if masked else 0  # a boolean, and the form that the kernel takes
    rounded = num_bytes if num_bytes < FLOAT32 else 0
    layer = tokens * reading_elements(shape) * num_bytes + mask
    logits = min(tokens * shape.vocab_size, READ_LOGITS) * (READ_BYTES + rounded)
    return Memory(
        weights=shape.num_parameters * num_bytes,
        activations=tokens * shape.hidden_size * num_bytes + (layer if layer > logits else 0),
        logits=logits if logits >= layer else 0,
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
        activations=max(row_tokens, batch_tokens) * reading_elements(shape) * num_bytes,
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


def request_memory(shape: ModelShape, tokens: int, num_bytes: int, runtime: float) -> Memory:
    """Returns the memory of an engine on plain transformers that answers one request of ``tokens`` tokens.

    Such an engine reserves nothing; each request takes its own cache.
    """
    return Memory(
        weights=shape.num_parameters * num_bytes,
        activations=tokens * reading_elements(shape) * num_bytes,
        kv_cache=tokens * shape.kv_bytes_per_token(num_bytes),
        runtime=runtime,
        host=shape.num_parameters * num_bytes,
    )


def cache_tokens(shape: ModelShape, memory: Memory, tensor_parallel: int, num_bytes: int) -> int:
    """Returns the tokens that an engine's key-value cache holds; heads that GPUs cannot share are held by several."""
    heads = -(-shape.num_kv_heads // tensor_parallel)
    per_token = 2 * shape.num_layers * heads * shape.head_dim * num_bytes
    return int(memory.kv_cache // per_token)
