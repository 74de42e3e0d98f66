"""Reads YAML and ``key.sub=value`` as they are written: nothing is cut, converted or taken as empty without a word.

Of unquoted values, only true, false, null and ordinary numbers are not text. ``007``, ``yes``, ``1_000`` and ``12:30``
are text, which the type of a setting may still read as a number or as true. Independent of what the values mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from rlenv.core.errors import ConfigError, Problem
from rlenv.core.files import unreadable

PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+|[-+]?\.(?:inf|nan)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}
"""YAML's type to the unquoted values that have it. Each has that type for PyYAML too, which writes a run's settings."""
NO_VALUE = "it has no value; give one, or null for none"


class _Loader(yaml.SafeLoader):
    """Reads only ``PLAIN``; refuses keys without a value and keys that stand twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own form)
        None: [(f"tag:yaml.org,2002:{kind}", re.compile(rf"(?:{form})\Z")) for kind, form in PLAIN.items()]
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if isinstance(value, yaml.ScalarNode) and value.tag.endswith(":null") and not value.value:
                raise yaml.MarkedYAMLError(problem=f"{name}: {NO_VALUE}", problem_mark=key.start_mark)
            if name is not None and name != "<<" and name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name} stands there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            try:  # JSON writes an emoji as two escapes
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise yaml.MarkedYAMLError(problem="a letter is half an emoji", problem_mark=node.start_mark) from None
        return value


def read_yaml(text: str) -> Any:
    """Returns the plain values of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or a key has no value or stands twice.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="lists or sections are nested too deeply") from None
    except (ValueError, OverflowError):  # 5000 digits, for example
        raise yaml.MarkedYAMLError(problem="a number is too large") from None


def unreadable_yaml(path: str | Path, error: Exception) -> Problem:
    """Returns the problem of a file that cannot be opened or is not YAML, with the line."""
    if isinstance(error, OSError):
        return unreadable(path, error)
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    came = getattr(error, "problem", None) or "other bytes" if isinstance(error, yaml.YAMLError) else "other bytes"
    return Problem(where, None, "", "a YAML file in UTF-8", came)


def read_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """Returns the dotted key and the value of each ``key.sub=value``, in order.

    A value is plain text to its end, with ``#`` and ``:`` in it, or a number, true, false or null; one that begins with
    a bracket or a quotation mark is YAML.

    >>> read_overrides(["out_dir=runs/exp #1", "seed=7", "data.path=null", "name='7'"])
    [('out_dir', 'runs/exp #1'), ('seed', 7), ('data.path', None), ('name', '7')]

    Raises:
        ConfigError: a key or a value is missing, or a value in brackets or quotation marks is not closed; all of them.
    """
    read, problems = [], []
    for override in overrides:
        key, _, text = (part.strip() for part in override.partition("="))
        if not all(key.split(".")):
            problems.append(f"{override}: expected key=value, such as seed=1")
        elif not text:
            problems.append(f"{key}: {NO_VALUE}: {key}=VALUE or {key}=null (is a variable of the shell unset?)")
        elif text[0] in "[{\"'":
            try:
                read.append((key, read_yaml(text)))
            except yaml.YAMLError as error:
                problem = getattr(error, "problem", None) or type(error).__name__
                problems.append(f"{key}: a value in brackets or quotation marks is read as YAML: {problem}")
        else:
            read.append((key, _plain(text)))
    if problems:
        raise ConfigError("\n".join(problems))
    return read


def _plain(text: str) -> Any:
    is_special = any(re.fullmatch(form, text) for kind, form in PLAIN.items() if kind != "merge")
    return read_yaml(text) if is_special else text
