"""Makes weighted sums of registered rewards from plain values, such as those of a YAML file.

    make_reward({"issue_free": {"weight": 1.0, "categories": {"premature_wrap_up": 2.0}}, "user_actions": 0.5})

To add a reward, decorate its factory with ``@register_reward("name")``, or name it as ``package.module:factory``, which
worker processes can import by themselves. A factory's positional parameters are its options (plain values). Its
keyword-only parameters are sources: objects such as a served discriminator, which the caller of ``make_reward`` passes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.protocols import Discriminator, Judge, Reward
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Role, Seat
from rlenv.env.rewards import WeightedReward, misfits
from rlenv.rewards.labels import JudgedLabels, LabelSource, detected_issues, oracle_issues, self_labelled_actions
from rlenv.rewards.terms import IssueFreeReward, JudgeReward, RealismReward, UserActionsReward
from rlenv.speakers.endpoint import import_callable

RewardFactory = Callable[..., Reward]
F = TypeVar("F", bound=RewardFactory)
RewardSpec = Mapping[str, Mapping[str, Any] | float | None]
"""Name to ``{weight, **options}``, or only to a weight; None means weight 1."""

ISSUE_SOURCES: dict[str, LabelSource] = {"oracle": oracle_issues, "detectors": detected_issues}
"""Name to source of issue labels, for the sources that need no served model."""
_FACTORIES: dict[str, RewardFactory] = {}


def register_reward(name: str) -> Callable[[F], F]:
    """Returns a decorator that registers a factory under ``name``.

    Raises:
        ConfigError: another factory has that name.
    """

    def register(factory: F) -> F:
        if _FACTORIES.setdefault(name, factory) is not factory:
            raise ConfigError(f"a reward {name!r} is already registered; choose another name")
        return factory

    return register


def reward_names() -> tuple[str, ...]:
    """Returns the names of all registered rewards."""
    return tuple(sorted(_FACTORIES))


def make_reward(spec: RewardSpec, *, seat: Seat | None = None, **sources: Any) -> Reward:
    """Returns the weighted sum that ``spec`` describes.

    Args:
        spec: see ``RewardSpec``.
        seat: the agent's seat, if known; rewards that are not defined for it are then reported here.
        sources: ``discriminator``, ``judge`` and any other object that a reward needs; unused ones are ignored.

    Raises:
        ConfigError: every problem of the spec in one report.
    """
    if not isinstance(spec, Mapping) or not spec:
        raise ConfigError(f"rewards: expected a mapping of name to settings, got {_empty_or_type(spec)}; {_known('')}")
    problems: list[str] = []
    terms: dict[str, tuple[float, Reward]] = {}
    for name, settings in spec.items():
        options = dict(settings) if isinstance(settings, Mapping) else {"weight": 1.0 if settings is None else settings}
        weight = options.pop("weight", 1.0)
        if not _is_number(weight):
            problems.append(f"{name}.weight: expected a finite number, got {weight!r}")
        try:
            reward = _make(str(name), options, sources)
        except ConfigError as error:
            problems += str(error).splitlines()
            continue
        problems += [f"{name}: {reason}" for reason in misfits(reward, seat)]
        terms[name] = (weight, reward)
    if problems:
        raise ConfigError("\n".join(f"rewards.{problem}" for problem in problems))
    return WeightedReward(terms)


def sources_asked_for(spec: RewardSpec) -> set[str]:
    """Returns the names of the sources that the spec's rewards require, which must be served for ``make_reward``.

    Raises:
        ConfigError: a reward is unknown.
    """
    parameters = [p for name in spec for p in inspect.signature(_factory(str(name))).parameters.values()]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}


def _make(name: str, options: dict[str, Any], sources: Mapping[str, Any]) -> Reward:
    factory = _factory(name)
    parameters = inspect.signature(factory).parameters.values()
    known = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    required = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty}
    is_required = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    problems = [f"{name}: no option {o!r}; {there_are(known | {'weight'}, o)}" for o in sorted(set(options) - known)]
    problems += [f"{name}: needs the option {o!r}" for o in sorted(required - set(options))]
    given = {source: sources[source] for source in is_required if sources.get(source) is not None}
    missing = sorted(source for source, needed in is_required.items() if needed and source not in given)
    problems += [f"{name}: needs a {source}, but none is served here" for source in missing]
    if not problems:
        try:
            return factory(**options, **given)
        except ConfigError as error:
            problems = [f"{name}.{line}" for line in str(error).splitlines()]
    raise ConfigError("\n".join(problems))


def _factory(name: str) -> RewardFactory:
    if ":" in name:
        return import_callable(name)
    if name not in _FACTORIES:
        raise ConfigError(f"{name}: no such reward; {_known(name)}")
    return _FACTORIES[name]


def _known(name: str) -> str:
    return f"{there_are(_FACTORIES, name)} (or package.module:factory)"


def _empty_or_type(value: object) -> str:
    return "an empty one" if isinstance(value, Mapping) else type(value).__name__


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ------------------------------------------------------------------------------- built-in rewards


@register_reward("realism")
def _realism(*, discriminator: Discriminator) -> Reward:
    return RealismReward(discriminator)


@register_reward("issue_free")
def _issue_free(
    categories: Mapping[str, float] | None = None,
    default: float = 1.0,
    source: str = "oracle",
    taxonomy: str | None = None,
    clean: float = 0.0,
    *,
    judge: Judge | None = None,
) -> Reward:
    weights = categories or {}
    if not isinstance(weights, Mapping):
        raise ConfigError(f"categories: expected a mapping of issue to weight, got {type(weights).__name__}")
    known = load_taxonomy(taxonomy).issue_ids()
    problems = [f"categories: no issue {i!r}; {there_are(known, i)}" for i in weights if i not in known]
    problems += _negative({**{f"categories.{i}": w for i, w in weights.items()}, "default": default, "clean": clean})
    issues = _source(source, ISSUE_SOURCES, "assistant", judge, problems)
    if issues is None or problems:
        raise ConfigError("\n".join(problems))
    return IssueFreeReward(dict(weights), default, issues, float(clean))


@register_reward("user_actions")
def _user_actions(
    good: float = 1.0,
    bad: float = 1.0,
    source: str = "user",
    taxonomy: str | None = None,
    *,
    judge: Judge | None = None,
) -> Reward:
    problems = _negative({"good": good, "bad": bad})
    actions = _source(source, {"user": self_labelled_actions}, "user", judge, problems)
    if actions is None or problems:
        raise ConfigError("\n".join(problems))
    return UserActionsReward(good, bad, actions, load_taxonomy(taxonomy))


@register_reward("judge")
def _judge(*, judge: Judge) -> Reward:
    return JudgeReward(judge)


def _negative(values: Mapping[str, object]) -> list[str]:
    """Returns a problem for each value that is not a number of 0 or more."""
    return [
        f"{name}: expected a number of 0 or more, got {value!r}"
        for name, value in values.items()
        if not (_is_number(value) and value >= 0)  # type: ignore[operator]
    ]


def _source(
    name: str, unserved: Mapping[str, LabelSource], role: Role, judge: Judge | None, problems: list[str]
) -> LabelSource | None:
    """Returns the source of labels called ``name``; if there is none, returns None and adds to ``problems``."""
    if name in unserved:
        return unserved[name]
    if name == "judge" and judge is not None:
        return JudgedLabels(judge, role)
    if name == "judge":
        problems.append("source: 'judge' needs a judge, but none is served here")
    else:
        problems.append(f"source: no source {name!r}; {there_are({*unserved, 'judge'}, name)}")
    return None
