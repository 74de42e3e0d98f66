"""Settings are checked the same way in Python and from a file: all problems at once, each with its key and a hint."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError, field, replace
from typing import Any, Literal

import pytest
from pydantic import Field, PositiveFloat

from rlenv.core.errors import ConfigError
from rlenv.core.settings import Settings, defaults, read, settings, to_dict


@settings
class Inner(Settings):
    rate: PositiveFloat = 1
    low: int = Field(1, ge=0)
    high: int = 5
    kind: Literal["linear", "cosine"] = "linear"
    names: tuple[str, ...] = ("a",)
    on: bool = False

    def problems(self) -> list[str]:
        return ["low: more than high; lower it"] if self.low > self.high else []


@settings
class Outer(Settings):
    inner: Inner = Inner()
    many: dict[str, Inner] = field(default_factory=dict)
    text: str | None = None
    weights: dict[str, float] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        unknown = sorted(set(self.weights) - set(self.many))
        return [f"weights.{name}: many has no such name" for name in unknown]


def problems_of(**values: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(Outer, values, "f.yaml")
    return str(error.value).splitlines()


def test_settings_are_frozen_and_are_compared_hashed_and_pickled_by_value():
    config = replace(Inner(), high=9)
    with pytest.raises(FrozenInstanceError):
        config.high = 3
    assert config == Inner(high=9) and hash(config) == hash(Inner(high=9))
    assert pickle.loads(pickle.dumps(config)) == config


def test_wrong_values_in_python_are_one_config_error_with_every_problem():
    with pytest.raises(ConfigError) as error:
        Inner(rate=0, high=3, low=4, kind="liner")
    assert str(error.value).splitlines() == [
        "Inner.rate: expected above 0, got 0",
        "Inner.kind: expected 'linear' or 'cosine', got 'liner'; did you mean 'linear'?",
        "Inner.low: more than high; lower it",
    ]
    with pytest.raises(ConfigError, match=r"Inner\.rate: expected above 0, got -1"):
        Inner(-1)
    with pytest.raises(ConfigError, match=r"Inner\.low: expected 0 or more"):
        replace(Inner(), low=-1)
    with pytest.raises(ConfigError, match=r"Inner\.rte: there is no such setting; .*did you mean 'rate'"):
        Inner(rte=1)


def test_problems_of_all_sections_and_violated_rules_are_reported_together():
    assert problems_of(
        inner={"low": 9, "on": "perhaps"}, many={"x": {"rat": 1, "low": 7}}, text=[1], weights={"y": 1.0}
    ) == [
        "f.yaml: inner.on: expected true or false, got 'perhaps'",
        "f.yaml: many.x.rat: there is no such setting; there are high, kind, low, names, on, rate; "
        "did you mean 'rate'?",
        "f.yaml: text: expected text, got [1]",
        "f.yaml: inner.low: more than high; lower it",
        "f.yaml: many.x.low: more than high; lower it",
        "f.yaml: weights.y: many has no such name",
    ]


def test_a_rule_about_an_invalid_setting_is_not_reported():
    assert problems_of(inner={"low": 9, "high": "many"}) == ["f.yaml: inner.high: expected a whole number, got 'many'"]
    assert problems_of(many=3, weights={"y": 1.0}) == ["f.yaml: many: expected settings as key: value, got 3"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, ".nan", True, None, "fast", [1]])
def test_values_that_are_not_finite_numbers_are_rejected(value):
    (problem,) = problems_of(inner={"rate": value})
    assert "inner.rate: expected" in problem
    with pytest.raises(ConfigError, match="rate"):
        Inner(rate=value)


@pytest.mark.parametrize("weights", [{"x": True}, {"x": math.nan}, {"x": "much"}, [1.0], "x"])
def test_numbers_in_dictionaries_are_checked(weights):
    assert all("weights" in problem for problem in problems_of(many={"x": {}}, weights=weights))


@pytest.mark.parametrize(("written", "meant"), [(2, 2.0), ("1e-3", 1e-3), ("5e-5", 5e-5), (0.5, 0.5), ("3", 3.0)])
def test_numbers_that_yaml_reads_as_text_are_accepted(written, meant):
    rate = read(Outer, {"inner": {"rate": written}}, "f").inner.rate
    assert rate == meant and isinstance(rate, float)


def test_a_fraction_is_rejected_as_an_integer_and_a_number_is_accepted_as_text():
    assert problems_of(inner={"low": 1.5}) == ["f.yaml: inner.low: expected a whole number, got 1.5"]
    assert read(Outer, {"text": 2024}, "f").text == "2024"


def test_a_long_wrong_value_is_truncated_in_the_message():
    (problem,) = problems_of(inner={"kind": "x" * 500})
    assert len(problem) < 200 and "xxx..." in problem


def test_saved_settings_are_plain_values_and_are_read_back_equal():
    config = Outer(many={"x": Inner(rate=2, names=("b", "c"))}, weights={"x": 1}, anything={"a": {"b": 1}})
    saved = to_dict(config)
    assert saved["many"]["x"] == {
        "rate": 2.0, "low": 1, "high": 5, "kind": "linear", "names": ["b", "c"], "on": False,
    }  # fmt: skip
    assert saved["anything"] == {"a": {"b": 1}} and isinstance(saved["weights"]["x"], float)
    assert read(Outer, saved, "saved") == config
    assert defaults(Outer) == to_dict(Outer())
