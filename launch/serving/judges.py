"""Which judge annotates: detectors, the population's oracle, a model behind an endpoint, or one that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from launch.serving.language_models import ModelChoice, language_model
from rlenv.core.errors import ConfigError
from rlenv.core.taxonomy import load_taxonomy
from rlenv.judges.annotate import NamedJudge
from rlenv.judges.detectors import DETECTORS, DetectorJudge
from rlenv.judges.llm import Kind, LLMJudge, LLMJudgeConfig
from rlenv.judges.oracle import OracleJudge
from rlenv.speakers.completers import CachedCompleter


class JudgeName(StrEnum):
    """Who annotates."""

    detectors = "detectors"
    oracle = "oracle"
    endpoint = "endpoint"
    engine = "engine"


class What(StrEnum):
    """What is annotated."""

    actions = "actions"
    issues = "issues"
    both = "both"


@dataclass(frozen=True)
class JudgeOptions:
    """What the command line says of the judge."""

    judge: JudgeName
    what: What | None
    """None is all that the judge can."""
    cache: Path
    """Folder of a language model's answers, and of an engine's log."""
    taxonomy: Path | None = None
    model: ModelChoice = ModelChoice()
    input_tokens: int = 8000
    """Longest question, for an engine of ours."""
    max_tokens: int = 2048
    concurrency: int = 8
    seed: int = 0


@contextmanager
def serve_judge(options: JudgeOptions) -> Iterator[tuple[NamedJudge, CachedCompleter | None]]:
    """Gives the judge, and what it remembers and counts where it is a language model.

    Raises:
        ConfigError: the judge cannot label what is asked for, or settings are missing.
    """
    taxonomy = load_taxonomy(options.taxonomy)
    if options.judge in (JudgeName.detectors, JudgeName.oracle):
        if options.what not in (None, What.issues):
            raise ConfigError(f"--judge {options.judge} labels issues alone, --what is {options.what}")
        if options.judge is JudgeName.detectors:
            yield DetectorJudge([issue for issue in DETECTORS if issue in taxonomy.issue_ids()]), None
        else:
            yield OracleJudge(), None
        return
    wanted, other = ("engine_model", "base_url") if options.judge is JudgeName.engine else ("base_url", "engine_model")
    if getattr(options.model, wanted) is None or getattr(options.model, other) is not None:
        flags = {name: "--" + name.replace("_", "-") for name in (wanted, other)}
        raise ConfigError(f"--judge {options.judge} needs {flags[wanted]}, and takes no {flags[other]}")
    kinds: tuple[Kind, ...] = ("actions", "issues")
    if options.what in (What.actions, What.issues):
        kinds = ("actions",) if options.what is What.actions else ("issues",)
    config = LLMJudgeConfig(
        kinds=kinds, max_tokens=options.max_tokens, concurrency=options.concurrency, seed=options.seed
    )
    with language_model(
        options.model,
        num_positions=options.input_tokens + options.max_tokens,
        log_dir=options.cache,
        temperature=0.0,
        structured=True,
    ) as (completer, _):
        cached = CachedCompleter(completer, options.cache)
        yield LLMJudge(cached, taxonomy, config), cached
