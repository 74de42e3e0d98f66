"""Makes the embeddings of Figure 3 for ``rlenv evaluate``: chooses the model and caches its vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.run.progress import counting
from rlenv.core.errors import ConfigError
from rlenv.core.types import Session
from rlenv.evaluation.embeddings.embedders import Embedder, VectorCache, embed_sessions
from rlenv.evaluation.embeddings.models import EndpointEmbedder, MiniLM, minilm_folder
from rlenv.evaluation.embeddings.sessions import EmbeddingConfig, EmbeddingTable, embedding_table, sample_sessions
from rlenv.evaluation.subjects import REAL, Simulator
from rlenv.speakers.outside import consent_problems, secret_problems


@dataclass(frozen=True)
class EmbeddingOptions:
    """The command-line options of embeddings."""

    cache: Path
    """Folder of cached vectors."""
    wanted: bool = True
    """Whether to make Figure 3."""
    base_url: str | None = None
    """Root URL of an OpenAI-compatible endpoint; None is MiniLM on this machine."""
    model: str | None = None
    key_env: str | None = None
    allow_external: bool = False
    """Whether conversations may go to an endpoint that is not on this machine."""


def make_embeddings(
    simulators: Sequence[Simulator], real: Sequence[Session], options: EmbeddingOptions, config: EmbeddingConfig
) -> EmbeddingTable | str:
    """Returns the table of Figure 3, or a sentence that says why there is none and how to get it.

    Raises:
        ConfigError: the settings of an endpoint do not fit each other, or it refuses them.
        EngineError: the endpoint failed after retries; its earlier answers are cached.
    """
    embedder = _embedder(options)
    if isinstance(embedder, str):
        return embedder
    sessions = sample_sessions(simulators, real, config)
    flat = [s for some in sessions.values() for s in some]
    with counting("sessions embedded", len(flat)) as advance:
        vectors = iter(embed_sessions(embedder, flat, VectorCache(options.cache), advance=advance))
    table = embedding_table(
        sessions,
        {name: [next(vectors) for _ in some] for name, some in sessions.items()},
        config,
        embedder=embedder.name,
        pools=[s.name for s in simulators if s.members],
    )
    notes = _sample_notes(sessions, simulators, real, config.seed)
    return table.model_copy(update={"notes": (*notes, *table.notes)})


def vector_folder(source: Path, out: Path) -> Path:
    """Returns the folder of cached vectors: beside the evaluated sessions or, where that is read-only, beside ``out``.

    Vectors reveal much of a conversation, so they are kept where the conversation is.
    """
    beside = source / "embeddings" if source.is_dir() else source.with_name(source.name + ".embeddings")
    return beside if os.access(beside.parent, os.W_OK) else out.with_name(out.name + ".cache")


def _sample_notes(
    sessions: Mapping[str, Sequence[Session]], simulators: Sequence[Simulator], real: Sequence[Session], seed: int
) -> list[str]:
    numbers = {REAL: len(real)} | {s.name: len(s.sessions) for s in simulators}
    parts = [f"{len(sessions[name])} of {num} of {name}" for name, num in numbers.items() if len(sessions[name]) < num]
    if not parts:
        return []
    return [f"Figure 3 embeds a sample of the sessions, drawn under seed {seed}: {', '.join(parts)}; --embed-sessions "
            "sets its size"]  # fmt: skip


def _embedder(options: EmbeddingOptions) -> Embedder | str:
    if bool(options.base_url) != bool(options.model) or (options.key_env and not options.base_url):
        raise ConfigError("--embed-url and --embed-model go together (and --embed-key-env with them)")
    problems = secret_problems(options.base_url, options.key_env)
    if problems := problems + consent_problems(options.base_url, options.allow_external):
        raise ConfigError("\n".join(problems))
    if not options.wanted:
        return "it is switched off with --no-embeddings"
    if options.base_url and options.model:
        return EndpointEmbedder(options.base_url, options.model, options.key_env)
    try:
        minilm_folder()
    except ConfigError as error:
        return f"{error}, or give an endpoint with --embed-url and --embed-model"
    return MiniLM()
