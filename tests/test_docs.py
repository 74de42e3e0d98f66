"""README and docs say what is so: their code runs and prints what stands there, and what they name exists.

Python blocks of a file run in order, in one namespace. A block below ``<!-- not run: WHY -->`` is left out; a ``text``
block right below a Python block is what that block prints.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path

import pytest

import rlenv
from rlenv.rewards import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("rlenv", "actors", "trainers", "launch")
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n)?```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?",
    re.S | re.M,
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?://)([^)\s]+)\)")
IN_CODE = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(r"(rlenv|actors|trainers|launch|conf|tests|docs|examples)/[\w./]*")
DOTTED_NAME = re.compile(r"(rlenv|actors|trainers|launch)(\.\w+)+")
COMMAND = re.compile(r"^(?:rlenv ([a-z-]+)|(launch/\w+\.sh))", re.M)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def with_code(page: Path) -> bool:
    return any(not block["skip"] for block in BLOCK.finditer(page.read_text()))


@pytest.mark.parametrize("page", [page for page in PAGES if with_code(page)], ids=name_of)
def test_the_python_of_a_page_runs_and_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))  # what a page registers ends with its test
    namespace: dict[str, object] = {"__name__": "__docs__"}
    for block in BLOCK.finditer(page.read_text()):
        if block["skip"]:
            continue
        line = page.read_text()[: block.start("code")].count("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block["code"], str(page), "exec", dont_inherit=True), namespace)
        if block["printed"] is not None:
            assert printed.getvalue() == block["printed"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_and_names_that_a_page_mentions_exist(page):
    missing = []
    for code in IN_CODE.findall(page.read_text()):
        if REPOSITORY_PATH.fullmatch(code) and not (ROOT / code).exists():
            missing.append(code)
        if DOTTED_NAME.fullmatch(code) and not defined(code):
            missing.append(code)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_exist(page):
    from launch.cli.main import app

    known = {c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands}
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.S | re.M))
    commands = COMMAND.findall(blocks)
    assert {command for command, _ in commands if command} <= known
    assert all((ROOT / script).is_file() for _, script in commands if script)


def test_the_architecture_names_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text()
    folders = {p.parent.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).glob("*/*.py")}
    assert {folder for folder in folders if f"`{folder}/`" not in page} == set()


def test_the_picture_of_the_layers_has_the_order_that_the_import_rules_hold():
    tree = ast.parse((ROOT / "tests" / "test_import_rules.py").read_text())
    layers = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and "LAYERS" in names(n))
    picture = re.sub(r"[│┌┐└┘─┬┴▼\s]+", " ", (ROOT / "docs" / "architecture.md").read_text())
    for package in ("rlenv", "trainers", "launch"):
        for above, below in pairwise(reversed(layers[package])):
            assert f"{above} → {below}" in picture, package


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def names(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined(name: str) -> bool:
    """Returns whether a dotted name is a folder or module of ours, or defined in one: a class, a function, a field."""
    parts = name.split(".")
    if parts[0] == "rlenv" and len(parts) == 2 and parts[1] in rlenv.__all__:
        return True
    for size in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:size])
        module = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if module.is_file():
            text = module.read_text()
            return all(re.search(rf"(def|class) {part}\b|^ *{part}\b *[:=]", text, re.M) for part in parts[size:])
    return False
