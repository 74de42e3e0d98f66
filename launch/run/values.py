"""Reads ``key.sub=value`` as it is written: nothing is cut, converted or taken as empty without a word.

``007``, ``yes``, ``1_000`` and ``12:30`` are text, as in files (``rlenv.core.plain_yaml``); the type of a setting may
still read them as a number or as true. Knows no setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from rlenv.core.errors import ConfigError
from rlenv.core.plain_yaml import NO_VALUE, PLAIN, read_yaml


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
