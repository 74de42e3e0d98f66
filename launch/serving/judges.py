"""Serves the judge of a configuration: detectors, the population's oracle, or a language model."""

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
from rlenv.speakers.outside import secret_problems


class JudgeName(StrEnum):
    """The kinds of judges."""

    detectors = "detectors"
    oracle = "oracle"
    endpoint = "endpoint"
    engine = "engine"


class What(StrEnum):
    """What a judge labels."""

    actions = "actions"
    issues = "issues"
    both = "both"


@settings
class JudgeConfig(ModelChoice):
    """A judge, and its language model if it is one."""

    judge: JudgeName = JudgeName.detectors
    """Detectors, the reference population's oracle, or a language model behind an endpoint or on a local engine."""
    concurrency: PositiveInt = 8
    """Conversations judged at the same time."""
    taxonomy: str | None = None
    """YAML file of the categories that it labels; None is the package's taxonomy."""

    def problems(self) -> list[str]:
        """Returns the settings that a judge of this kind lacks or cannot use."""
        if self.judge not in (JudgeName.endpoint, JudgeName.engine):
            return []
        if secrets := secret_problems(self.base_url, self.api_key_env):
            return secrets
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
    input_tokens: int = 8000,
    max_tokens: int = 2048,
    seed: int = 0,
) -> Iterator[tuple[NamedJudge, CachedCompleter | None]]:
    """Yields the judge and, if it is a language model, the completer that caches and counts its answers.

    Args:
        judge: the judge's configuration.
        cache: folder of the language model's answers and of the engine's log.
        what: what to label; None is everything that the judge can label.
        input_tokens: longest prompt of a local engine, in tokens.
        max_tokens: longest answer of a language model, in tokens.
        seed: the seed of its sampling.

    Raises:
        ConfigError: the judge cannot label ``what``.
    """
    categories = load_taxonomy(judge.taxonomy)
    if judge.judge in (JudgeName.detectors, JudgeName.oracle):
        if what not in (None, What.issues):
            raise ConfigError(f"--judge {judge.judge} labels only issues, but --what is {what}; give --what issues")
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
