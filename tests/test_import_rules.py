"""The house's import table, read from the source of every file: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlenv", "actors", "trainers", "launch")
FORBIDDEN = {
    "rlenv": {"ray", "vllm", "trl", "wandb", "omegaconf", "actors", "trainers", "launch"},
    "actors": {"trainers", "launch", "trl", "wandb", "omegaconf"},
    "trainers": {"actors", "launch", "vllm", "wandb", "omegaconf"},
    "launch": set(),
}
ONLY_IN = {"omegaconf": {"launch/config.py"}, "wandb": {"launch/tracking.py"}}
"""Within ``launch``, the one file that knows each."""
LIGHT = (
    "rlenv",
    "rlenv.env",
    "rlenv.gym_env",
    "rlenv.types",
    "rlenv.scripted",
    "rlenv.preferences",
    "rlenv.linguistics",
)


def imports(path: Path) -> set[str]:
    """Returns the full names that a file imports, inside functions too."""
    package = list(path.relative_to(ROOT).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module]
            )
            names |= {f"{base.strip('.')}.{alias.name}" for alias in node.names}
    return names


def calls(path: Path) -> set[str]:
    """Returns the dotted names that a file calls, ``ray.init`` for example."""
    tree = ast.parse(path.read_text(), str(path))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_every_package_has_files():
    assert all(any(path.is_relative_to(ROOT / package) for path in FILES) for package in PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_its_package_may_know(path):
    package = path.relative_to(ROOT).parts[0]
    wrong = sorted(name for name in imports(path) if name.split(".")[0] in FORBIDDEN[package])
    assert wrong == []


def test_one_file_of_launch_knows_omegaconf_and_one_wandb():
    for name, allowed in ONLY_IN.items():
        users = {str(p.relative_to(ROOT)) for p in FILES if any(i.split(".")[0] == name for i in imports(p))}
        assert users == allowed


def test_ray_is_started_by_launch_alone():
    starters = {str(p.relative_to(ROOT)) for p in FILES if "ray.init" in calls(p)}
    assert {Path(name).parts[0] for name in starters} == {"launch"}


def test_nothing_but_the_command_line_prints():
    printing = {str(p.relative_to(ROOT)) for p in FILES if "print" in calls(p)}
    # render_mode "human" is asked to; launch/submit.sh reads what submission prints.
    assert printing <= {"rlenv/gym_env.py", "launch/submission.py"}


def test_the_environment_is_importable_without_torch_or_transformers():
    import subprocess
    import sys

    code = (
        f"import sys, {', '.join(LIGHT)}; sys.exit(bool({{'torch', 'transformers', 'ray', 'vllm'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
