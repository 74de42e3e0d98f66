"""Declares and checks settings: frozen pydantic dataclasses, and one ``ConfigError`` with every problem.

    @settings
    class DpoConfig(Settings):
        beta: float = Field(default=1.0, gt=0)

        def problems(self) -> list[str]:      # rules between fields

Wrong settings raise the same error whether they are made in Python or read from a file; only the prefix of the keys
differs. Numbers written as text (``1e-3`` in YAML) are accepted as numbers; true, false, infinity and NaN are not.
A whole number is accepted as text; ``1.10`` and ``true`` are not, since they would become ``1.1`` and ``True``.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, to_jsonable_python

from rlenv.core.errors import ConfigError, did_you_mean, there_are

T = TypeVar("T")
Rate = Annotated[float, Field(ge=0, le=1)]
"""A probability or a share."""
MOST_BYTES = 255
"""Of a file's name, on all common file systems."""


def longest_part(name: str) -> int:
    """Returns the bytes of the longest name between slashes; file systems take at most ``MOST_BYTES``."""
    return max(len(part.encode("utf-8", "surrogatepass")) for part in name.split("/"))


def _can_be_a_path(name: str) -> str:
    longest = longest_part(name)
    if longest > MOST_BYTES:
        raise ValueError(f"expected names of at most {MOST_BYTES} bytes between slashes, got one of {longest}")
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_can_be_a_path)]
"""The name of something, or the path to it. An empty one is never the same as none."""

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, validate_default=True)
MAX_VALUE_CHARS = 60
"""Maximum number of characters of a wrong value in a message."""
EXPECTED = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text without halves of emojis",
    "string_too_short": "a text that is not empty",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "{min_length} or more entries",
    "dict_type": "settings as key: value",
    "dataclass_type": "settings as key: value",
    "model_type": "settings as key: value",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
"""Pydantic's error type to what was expected."""


class _RulesError(ValueError):
    """Rules between fields that are violated."""

    def __init__(self, problems: list[str], config: Any) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.config = config


@dataclass(frozen=True, config=CONFIG)
class Settings:
    """Base class of all settings. Decorate subclasses with ``settings``."""

    def problems(self) -> list[str]:
        """Returns the violated rules between fields, each as ``field: what is wrong and what to do``."""
        return []

    @field_validator("*", mode="before")
    @classmethod
    def _unaltered(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects what pydantic would alter: true and false as numbers or as text, and decimal numbers as text."""
        annotation = cast(Any, cls).__pydantic_fields__[info.field_name].annotation
        types = {annotation, *get_args(annotation)}
        if {int, float} & types and _has_bool(value):
            raise ValueError(f"expected a number, got {shown(value)}")
        if str in types and not {bool, float} & types and isinstance(value, bool | float):
            raise ValueError(f"expected text, got {shown(value)}; write it in quotation marks, inside the shell's")
        return value

    @model_validator(mode="after")
    def _rules(self) -> Settings:
        if problems := self.problems():
            raise _RulesError(problems, self)
        return self


@dataclass_transform(frozen_default=True, field_specifiers=(Field, field))
def settings(cls: type[T]) -> type[T]:
    """Returns ``cls`` as a class of settings: frozen, without unknown fields, checked when an instance is made.

    Wrong values raise a ``ConfigError`` that names each of them, for example ``DpoConfig.beta``.
    """
    made: Any = dataclass(frozen=True, config=CONFIG)(cls)
    validate = made.__init__

    @wraps(validate)
    def __init__(self: Any, *args: Any, **named: Any) -> None:
        try:
            validate(self, *args, **named)
        except ValidationError:
            if len(args) > len(fields(made)):
                raise TypeError(f"{made.__name__} takes {len(fields(made))} values, got {len(args)}") from None
            values = dict(zip((f.name for f in fields(made)), args, strict=False)) | named
            found, _ = find_problems(made, values)
            raise ConfigError("\n".join(f"{made.__name__}.{problem}" for problem in found)) from None

    made.__init__ = __init__
    return cast(type[T], made)


OVERLONG = re.compile(r"(\S{60})\S{240,}")
"""A value that was pasted in the wrong place; a message shows its beginning."""


def read(schema: type[T], values: Mapping[str, Any], where: object, rules: Callable[[T], list[str]] | None = None) -> T:
    """Returns the settings of class ``schema`` with the values of a file.

    Args:
        schema: a class of settings.
        values: nested dictionaries of plain values.
        where: the name of the file, for errors.
        rules: returns further problems, like ``Settings.problems``.

    Raises:
        ConfigError: the values are wrong; has every problem.
    """
    found, config = find_problems(schema, values, rules)
    if found or config is None:
        readable = [OVERLONG.sub(r"\1...", problem) for problem in found]
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in readable))
    return config


def find_problems(
    schema: type[T], values: Mapping[str, Any], rules: Callable[[Any], list[str]] | None = None
) -> tuple[list[str], T | None]:
    """Returns all problems of the values, each with its dotted key, and the settings if there are no problems.

    Pydantic checks rules between fields only if every field is valid. Therefore wrong values are removed and the rest
    is checked again; a violated rule that names a removed value is not reported.
    """
    adapter: TypeAdapter[T] = TypeAdapter(schema)
    remaining: dict[str, Any] = copy.deepcopy(dict(values))
    found: list[str] = []
    removed: list[str] = []
    while True:
        config = None
        try:
            config = adapter.validate_python(remaining)
            new = rules(config) if rules else []
            errors: Sequence[ErrorDetails] = ()
        except ValidationError as error:
            errors = error.errors(include_url=False)
            new = [problem for one in errors for problem in _sentences(schema, one)]
            broken = [one["ctx"]["error"] for one in errors if one["type"] == "value_error" and not one["loc"]]
            new += [problem for one in broken if rules for problem in rules(one.config)]
        found += [p for p in new if p not in found and not any(_is_about(p, key) for key in removed)]
        taken = [key for one in errors if (key := _remove(remaining, one["loc"]))]
        removed += taken
        if not taken:
            return found, None if found else config


def _remove(values: Any, path: Sequence[int | str]) -> str:
    """Removes the value of an error from nested values; returns its dotted key, or "" if it is all of them."""
    inside, keys = None, []
    for key in path:
        if not isinstance(values, dict) or key not in values:
            break
        inside, values = values, values[key]
        keys.append(key)
    if inside is not None:
        del inside[keys[-1]]
    return ".".join(map(str, keys))


def _is_about(problem: str, key: str) -> bool:
    """Returns whether a problem names a setting: by its dotted key, or by its name in a problem of the same section."""
    section, _, name = key.rpartition(".")
    in_section = not section or problem.startswith(f"{section}.")
    return key in problem or (in_section and re.search(rf"\b{re.escape(name)}\b", problem) is not None)


def _sentences(schema: Any, error: ErrorDetails) -> list[str]:
    """Returns the problems of an error, each as ``key: expected ..., got ...``."""
    path, actual, kind = error["loc"], error["input"], error["type"]
    if path and isinstance(path[0], int):  # a positional argument
        path = (fields(schema)[path[0]].name, *path[1:])
    key = ".".join(map(str, path))
    context = error.get("ctx", {})
    if kind == "value_error":
        rules = getattr(context["error"], "problems", None)
        if rules is None:
            return [f"{key}: {context['error']}"]
        return [f"{key}.{problem}" if key else problem for problem in rules]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return [f"{key}: there is no such setting; {there_are(_names(schema, path[:-1]), path[-1])}"]
    if kind in ("missing", "missing_argument"):
        return [f"{key}: expected a value, and none is given; it has no default"]
    if kind not in EXPECTED:
        return [f"{key}: {error['msg']}, got {shown(actual)}"]
    sentence = f"{key}: expected {EXPECTED[kind].format(**context)}, got {shown(actual)}"
    names = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    return [sentence + did_you_mean(names, actual)]


def shown(value: Any) -> str:
    """Returns a wrong value as a short text."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def _names(schema: Any, path: Sequence[int | str]) -> list[str]:
    """Returns the names of the settings at ``path``."""
    for key in path:
        if key in schema.__pydantic_fields__:  # else it is a key of a dictionary or an index of a list
            annotation = schema.__pydantic_fields__[key].annotation
            schema = next((c for c in (annotation, *get_args(annotation)) if hasattr(c, "__pydantic_fields__")), schema)
    return sorted(schema.__pydantic_fields__)


def _has_bool(value: Any) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, bool) or any(map(_has_bool, inner))


def defaults(schema: Any) -> dict[str, Any]:
    """Returns the defaults of a class of settings as plain values, without fields that have no default."""
    return {
        name: to_jsonable_python(info.get_default(call_default_factory=True, validated_data={}))
        for name, info in schema.__pydantic_fields__.items()
        if not info.is_required()
    }


def to_dict(config: Any) -> dict[str, Any]:
    """Returns settings as plain dictionaries, lists and values, the form in which they are saved with a run."""
    return cast(dict[str, Any], to_jsonable_python(config))
