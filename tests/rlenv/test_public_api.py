"""The public API: the names of ``import rlenv``, when they are imported, and what a type checker sees."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import rlenv

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", rlenv.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(rlenv, name) is not None
    assert name in dir(rlenv)


def test_public_names_are_sorted_and_unique() -> None:
    assert rlenv.__all__ == sorted(set(rlenv.__all__))


def test_a_type_checker_sees_the_names_that_are_imported_lazily() -> None:
    tree = ast.parse(Path(rlenv.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {(alias.name, node.module) for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen == set(rlenv._MODULE_OF.items())
    assert {name for name, _ in seen} | {"__version__"} == set(rlenv.__all__)


def test_a_public_name_is_the_same_object_as_in_its_module() -> None:
    for name, module in rlenv._MODULE_OF.items():
        assert getattr(rlenv, name) is getattr(import_module(module), name)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="make_rewards"):
        rlenv.make_rewards  # noqa: B018


def test_the_public_api_needs_no_model_library() -> None:
    code = (
        "import sys, rlenv; [getattr(rlenv, name) for name in rlenv.__all__]; "
        "sys.exit(bool({'torch', 'transformers', 'ray', 'vllm', 'trl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_lazy_import_of_rlenv_loads_no_env() -> None:
    code = "import sys, rlenv; sys.exit('rlenv.env.gym' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_version_is_defined_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rlenv.version.__version__"}
    assert rlenv.__version__ == import_module("rlenv.version").__version__


@pytest.mark.parametrize("package", ["rlenv", "actors", "trainers", "launch"])
def test_every_package_has_a_py_typed_marker(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
