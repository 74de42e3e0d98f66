"""Reads settings from YAML and the command line, and checks rules across sections. Alone uses OmegaConf, only to merge.

Values are read as they are written (``rlenv.core.plain_yaml``). Types and rules are checked by the settings themselves
(``rlenv.core.settings``). Every problem of a file is reported at once, before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from actors.engines.config import EngineConfig
from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.directory import RunDirectory
from launch.run.readers import Readers
from rlenv.core.errors import ConfigError
from rlenv.core.files import describe
from rlenv.core.plain_yaml import read_overrides, read_yaml
from rlenv.core.settings import Settings, defaults, read, to_dict
from rlenv.core.types import Sampling

__all__ = ["load_config", "open_run", "read_settings", "renamed", "to_dict", "typed"]

T = TypeVar("T", bound=Settings)
LOWER = "lower context.budget_tokens"

RENAMED = {
    "measuring": "evaluation",
    "rl.clip_low": "rl.epsilon",
    "rl.clip_high": "rl.epsilon_high",
    "rl.ratio": "rl.importance_sampling_level",
}
"""Former keys, found in the files of older runs, and their present names."""
FORMER_VALUES: Mapping[str, Mapping[Any, Any]] = {"further_sft": {False: "never", True: "row"}}
"""Settings with former values and their present ones."""
FORMER_DEFAULTS = {("discriminator", "max_tokens"): 8192, ("engines", "simulator", "max_model_len"): 4096}
"""Defaults that have changed: a run that was started with one is resumed with it unless its settings say otherwise."""


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the run's configuration.

    Args:
        path: a YAML file with the settings that differ from the defaults; None is the defaults.
        overrides: ``key.sub=value``, applied last.

    Raises:
        ConfigError: there is no such file; or it has unknown keys, wrong values or broken rules, all reported at once.
    """
    given, where = read_settings(path, overrides), path or "defaults"
    config = typed(RunConfig, [given], where, new_run_problems)
    kept = former_defaults(config.out_dir, given)
    return typed(RunConfig, [kept, given], where) if kept else config


def former_defaults(out_dir: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the former defaults that the run in ``out_dir`` was started with and that ``given`` does not set."""
    path = Path(out_dir) / "config.yaml"
    saved = read_settings(path) if path.is_file() else {}
    kept: dict[str, Any] = {}
    for keys, former in FORMER_DEFAULTS.items():
        if _value_at(saved, keys) == former and _value_at(given, keys) is None:
            inside = kept
            for key in keys[:-1]:
                inside = inside.setdefault(key, {})
            inside[keys[-1]] = former
    return kept


def _value_at(settings: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        settings = settings.get(key) or {} if isinstance(settings, Mapping) else {}
    return settings or None


def new_run_problems(config: RunConfig) -> list[str]:
    """Returns the token budgets that do not fit each other; none for a run that has started, so it can be resumed."""
    started = (Path(config.out_dir) / "config.yaml").is_file()
    return [] if started else token_problems(config)


def open_run(directory: RunDirectory, config: Settings, readers: Readers | None = None) -> None:
    """Creates the folder of a run, or opens the run in it to resume it.

    A setting that did not exist when the run was made has its default. One that no finished phase has read, by
    ``readers``, may have changed.

    Raises:
        ConfigError: the folder holds a run with other settings; names the settings that differ.
    """

    def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
        return _as_given(to_dict(typed(type(config), [renamed(saved)], directory.root / "config.yaml")), given)

    given = to_dict(config)
    directory.open(given, upgrade, readers)


def _as_given(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns saved settings with ``batch_invariant`` null where it is null now and was true, its former default.

    On a CPU both mean the same; on a GPU the former had no effect. ``allow_external`` is as it is now: it changes
    nothing that is made.
    """
    result = {k: _as_given(v, given[k]) if isinstance(v, dict) and isinstance(given.get(k), dict) else v
              for k, v in saved.items()}  # fmt: skip
    if "allow_external" in given:
        result["allow_external"] = given["allow_external"]
    if result.get("batch_invariant") is True and given.get("batch_invariant", True) is None:
        result["batch_invariant"] = None
    return result


def read_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings of a YAML file with ``key.sub=value`` overrides, not yet checked against any type.

    Raises:
        ConfigError: there is no such file, or it is not a YAML file of settings; or a setting is given without a value.
    """
    given = read_overrides(overrides)
    try:
        loaded: Any = {}
        if path is not None:
            if not Path(path).is_file():
                raise ConfigError(f"{path}: there is no such file; expected a YAML file of settings")
            loaded = read_yaml(Path(path).read_text("utf-8-sig"))
            loaded = {} if loaded is None else loaded
            if not isinstance(loaded, dict):
                raise ConfigError(f"{path}: expected settings as key: value, got {describe(loaded)}")
        merged, changed = OmegaConf.create(loaded), OmegaConf.create({})
        for key, value in given:
            OmegaConf.update(changed, key, value)
        return renamed(cast(dict[str, Any], OmegaConf.to_container(OmegaConf.merge(merged, changed))))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"{path}: this is not a YAML file of settings{line}: {problem}") from None
    except OmegaConfBaseException as error:
        raise _config_error(error, path or overrides) from None


def renamed(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a file with former keys and values as they are called now.

    >>> renamed({"rl": {"clip_low": 0.1}, "measuring": {"every": 3}, "further_sft": True})
    {'rl': {'epsilon': 0.1}, 'further_sft': 'row', 'evaluation': {'every': 3}}
    """
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for old, new in RENAMED.items():
        section, _, old_name = old.rpartition(".")
        inside = settings.get(section) if section else settings
        if isinstance(inside, dict) and old_name in inside:
            inside[new.rpartition(".")[2]] = inside.pop(old_name)
    for key, values in FORMER_VALUES.items():
        if isinstance(settings.get(key), bool):
            settings[key] = values[settings[key]]
    return settings


def typed(
    schema: type[T],
    layers: Sequence[Mapping[str, Any]],
    where: object,
    rules: Callable[[T], list[str]] | None = None,
) -> T:
    """Returns an instance of ``schema`` with the values of the layers, checked; later layers win.

    Args:
        schema: a class of settings.
        layers: nested dictionaries; a key that none of them has keeps its default.
        where: the source of the settings, named in errors.
        rules: returns further problems, each as ``key: what is wrong and what to do``.

    Raises:
        ConfigError: unknown keys (with a suggestion), wrong values and broken rules, all in one.
    """
    sections = [p for layer in layers for p in _no_sections(defaults(schema), layer)]
    if sections:
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in sections))
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(defaults(schema), *layers), resolve=True)
    except OmegaConfBaseException as error:
        raise _config_error(error, where) from None
    return read(schema, cast(dict[str, Any], merged), where, rules)


def _no_sections(known: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the sections that are given as a list, which cannot be merged."""
    for key, value in given.items():
        default, name = known.get(key), f"{prefix}{key}"
        if isinstance(default, dict) and isinstance(value, list):
            yield f"{name}: expected settings as key: value, got {describe(value)}"
        elif isinstance(default, dict) and isinstance(value, dict):
            yield from _no_sections(default, value, f"{name}.")
        elif isinstance(default, list) and isinstance(value, dict):
            yield f"{name}: expected a list, got {describe(value)}"


def _config_error(error: OmegaConfBaseException, where: object) -> ConfigError:
    key = getattr(error, "full_key", None)
    hint = "; ${...} stands for the value of another setting" if isinstance(error, InterpolationResolutionError) else ""
    return ConfigError(f"{where}: {key + ': ' if key else ''}{str(error).splitlines()[0]}{hint}")


def token_problems(config: RunConfig) -> list[str]:
    """Returns the token budgets that do not fit each other, each with both keys and what to change.

    A context may take all of ``context.budget_tokens``. A model that reads contexts and has fewer positions would fail
    at the first conversation with a long context, hours into a run.
    """
    return [*_discriminator(config), *_sft(config), *_engines(config)]


def _discriminator(config: RunConfig) -> Iterator[str]:
    budget, longest = config.context.budget_tokens, config.discriminator.max_tokens
    if config.discriminator.use_context and longest <= budget:
        yield (
            f"discriminator.max_tokens: {longest} leaves no room for a session after context.budget_tokens = {budget}; "
            f"raise it, {LOWER}, or set discriminator.use_context to false"
        )


def _sft(config: RunConfig) -> Iterator[str]:
    budget = config.context.budget_tokens
    sections = [("sft", config.sft, config.simulator.adapter is None)]
    trained = any(s.adapter == "trained" and s.sees_context for s in config.chatbots.values() if s.kind == "engine")
    sections.append(("chatbot_sft", config.chatbot_sft, trained))
    for section, sft, used in sections:
        if used and sft.max_tokens is not None and sft.max_tokens <= budget:
            yield (
                f"{section}.max_tokens: {sft.max_tokens} leaves no room for a session after context.budget_tokens = "
                f"{budget}; raise it, set it to null, or {LOWER}"
            )
    longest = config.dpo.replay_max_tokens
    if config.dpo.replay and longest is not None and longest <= budget:
        yield (
            f"dpo.replay_max_tokens: {longest} leaves no room for a session after context.budget_tokens = {budget}; "
            f"raise it, set it to null, or {LOWER}"
        )


def _engines(config: RunConfig) -> Iterator[str]:
    if simulator := config.engines.get("simulator"):
        yield from _engine(config, simulator, "simulator", "simulator", config.simulator.sampling)
    for where, speakers in (("chatbots", config.chatbots), ("zero_shot", config.zero_shot)):
        for name, speaker in speakers.items():
            engine = config.engines.get(speaker.engine)
            if engine is not None and speaker.kind == "engine" and _reads_context(where, speaker):
                yield from _engine(config, engine, speaker.engine, f"{where}.{name}", speaker.sampling)


def _reads_context(where: str, speaker: SpeakerConfig) -> bool:
    return where == "zero_shot" or speaker.sees_context


def _engine(
    config: RunConfig, engine: EngineConfig, engine_name: str, speaker: str, sampling: Sampling
) -> Iterator[str]:
    budget, reply = config.context.budget_tokens, sampling.max_tokens
    if engine.max_model_len <= budget + reply:
        yield (
            f"engines.{engine_name}.max_model_len: {engine.max_model_len} positions do not hold "
            f"context.budget_tokens = {budget} and {speaker}.sampling.max_tokens = {reply}; raise it, or {LOWER}"
        )
