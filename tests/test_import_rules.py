"""The import rules, read from the source of every file: which package and which folder may know which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlenv", "actors", "trainers", "launch")
FORBIDDEN = {
    "rlenv": {"ray", "vllm", "trl", "wandb", "omegaconf", "actors", "trainers", "launch"},
    "rlenv/core": {"torch", "transformers"},
    "rlenv/env": {"torch", "transformers"},
    "actors": {"trainers", "launch", "trl", "wandb", "omegaconf"},
    "trainers": {"actors", "launch", "vllm", "wandb", "omegaconf"},
    "launch": set(),
}
"""What the files below a folder may not import, by first name."""
LAYERS = {
    "rlenv": (
        "core", "prompting", "models", "env", "speakers", "data", "population", "judges", "rewards", "discriminator",
        "learning", "evaluation",
    ),
    "actors": ("engines",),
    "trainers": ("backend", "sft", "pretrain", "dpo", "discriminator", "chatbot_rl"),
    "launch": (
        "tracking", "run", "plan", "measure", "adversarial", "privacy", "serving", "reports", "study", "chatbot", "cli",
    ),
}  # fmt: skip
"""Folders of each package from the ground up: a folder imports from those before it alone."""
MOST_MODULES = 13
ONLY_IN = {"omegaconf": {"launch/run/settings.py"}, "wandb": {"launch/tracking/weights_and_biases.py"}}
"""Within ``launch``, the one file that knows each."""
LIGHT = (
    "rlenv", "rlenv.env.core", "rlenv.env.gym", "rlenv.core.types", "rlenv.speakers.scripted",
    "rlenv.learning.preferences", "rlenv.data.linguistics",
)  # fmt: skip
MODULE_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+(:\w+)?")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path: Path) -> frozenset[str]:
    """Returns the full names that a file imports, inside functions too, and modules of ours that a string names."""
    package = list(path.relative_to(ROOT).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1], node.module or ""] if node.level else [node.module or ""]
            )
            names |= {f"{base.strip('.')}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            name = node.value.split(":")[0]
            names |= {n for n in (name, name.rpartition(".")[0]) if "." in n and source_of(n).is_file()}
    return frozenset(names)


def source_of(name: str) -> Path:
    """Returns the file of a dotted module name, whether or not it is there."""
    return (ROOT / name.replace(".", "/")).with_suffix(".py")


def calls(path: Path) -> set[str]:
    """Returns the dotted names that a file calls, ``ray.init`` for example."""
    tree = ast.parse(path.read_text(), str(path))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def modules() -> dict[str, Path]:
    """Returns the file of every module of ours, by its dotted name."""
    return {relative(p).removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in FILES}


def folder_of(name: str) -> str:
    """Returns the second part of a dotted name where that is a folder, else nothing."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / parts[0] / parts[1]).is_dir() else ""


def test_every_package_has_files():
    assert all(any(path.is_relative_to(ROOT / package) for path in FILES) for package in PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_imports_only_what_its_place_may_know(path):
    forbidden = set().union(*(names for where, names in FORBIDDEN.items() if path.is_relative_to(ROOT / where)))
    assert sorted(name for name in imports(path) if name.split(".")[0] in forbidden) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_imports_only_from_folders_below_it(package):
    layers = LAYERS[package]
    folders = {p.name for p in (ROOT / package).iterdir() if any(p.glob("*.py"))}
    assert folders == set(layers)
    upward = []
    for path in FILES:
        here = path.relative_to(ROOT).parts
        if here[0] != package or here[1] not in layers:
            continue
        for name in imports(path):
            there = folder_of(name) if name.split(".")[0] == package else ""
            if there in layers and layers.index(there) > layers.index(here[1]):
                upward.append(f"{relative(path)} -> {name}")
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    edges = {}
    for name, path in known.items():
        found = {n if n in known else n.rpartition(".")[0] for n in imports(path)} & known.keys()
        edges[name] = found - {name}
    finished: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name in finished:
            return
        for other in sorted(edges[name]):
            visit(other, (*above, name))
        finished.add(name)

    for name in known:
        visit(name, ())


def test_no_folder_has_more_modules_than_a_reader_holds():
    folders = {path.parent for path in FILES}
    sizes = {relative(f): len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_one_file_of_launch_knows_omegaconf_and_one_wandb():
    for name, allowed in ONLY_IN.items():
        users = {relative(p) for p in FILES if any(i.split(".")[0] == name for i in imports(p))}
        assert users == allowed


def test_ray_is_started_by_launch_alone():
    starters = {relative(p) for p in FILES if "ray.init" in calls(p)}
    assert {Path(name).parts[0] for name in starters} == {"launch"}


def test_nothing_but_the_command_line_prints():
    printing = {relative(p) for p in FILES if "print" in calls(p)}
    # render_mode "human" is asked to; launch/submit.sh reads what submission prints.
    assert printing <= {"rlenv/env/gym.py", "launch/cli/submission.py"}


def test_the_environment_is_importable_without_torch_or_transformers():
    code = (
        f"import sys, {', '.join(LIGHT)}; sys.exit(bool({{'torch', 'transformers', 'ray', 'vllm'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
