"""Which judge annotates: detectors, the population's oracle, a model behind an endpoint, or one that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from pydantic import PositiveInt

from launch.serving.language_models import ModelChoice, language_model
from rlenv.core.errors import ConfigError
from rlenv.core.settings import settings
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


@settings
class JudgeConfig(ModelChoice):
    """Who labels, and which language model that is where it is one."""

    judge: JudgeName = JudgeName.detectors
    """Detectors, the reference population's oracle, or a language model: behind an endpoint, or run here."""
    concurrency: PositiveInt = 8
    """Conversations that are judged at the same time."""

    def problems(self) -> list[str]:
        """Returns what a judge of this kind lacks, or has and does not take."""
        if self.judge not in (JudgeName.endpoint, JudgeName.engine):
            return []
        if self.judge is JudgeName.engine:
            right = self.engine_model is not None and self.base_url is None
            return [] if right else ["engine_model: the judge engine needs one, and takes no base_url"]
        right = self.base_url is not None and self.model is not None and self.engine_model is None
        return [] if right else ["base_url: the judge endpoint needs one and a model, and takes no engine_model"]


@contextmanager
def serve_judge(
    judge: JudgeConfig,
    cache: Path,
    what: What | None = None,
    *,
    taxonomy: Path | None = None,
    input_tokens: int = 8000,
    max_tokens: int = 2048,
    seed: int = 0,
) -> Iterator[tuple[NamedJudge, CachedCompleter | None]]:
    """Gives the judge, and what it remembers and counts where it is a language model.

    Args:
        judge: who labels.
        cache: folder of a language model's answers, and of an engine's log.
        what: what is labelled; None is all that the judge can.
        taxonomy: a file of categories; None is ours.
        input_tokens: longest question, for an engine of ours.
        max_tokens: longest answer of a language model.
        seed: of its sampling.

    Raises:
        ConfigError: the judge cannot label what is asked for.
    """
    categories = load_taxonomy(taxonomy)
    if judge.judge in (JudgeName.detectors, JudgeName.oracle):
        if what not in (None, What.issues):
            raise ConfigError(f"--judge {judge.judge} labels issues alone, --what is {what}")
        if judge.judge is JudgeName.detectors:
            yield DetectorJudge([issue for issue in DETECTORS if issue in categories.issue_ids()]), None
        else:
            yield OracleJudge(), None
        return
    kinds: tuple[Kind, ...] = ("actions", "issues")
    if what in (What.actions, What.issues):
        kinds = ("actions",) if what is What.actions else ("issues",)
    config = LLMJudgeConfig(kinds=kinds, max_tokens=max_tokens, concurrency=judge.concurrency, seed=seed)
    with language_model(
        judge, num_positions=input_tokens + max_tokens, log_dir=cache, temperature=0.0, structured=True
    ) as (completer, _):
        cached = CachedCompleter(completer, cache)
        yield LLMJudge(cached, categories, config), cached
