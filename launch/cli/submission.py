"""Prepares the working directory of a submitted job, with only code and one configuration; see ``launch/submit.sh``.

The cluster runs a job in a temporary copy of that directory, so every path of the configuration is made absolute here,
relative to the directory of the caller. Overrides are merged into the configuration, so no shell parses them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.run.settings import load_config, to_dict
from rlenv.core.errors import RlenvError

CODE = ("rlenv", "actors", "trainers", "launch")
SUFFIXES = (".py", ".yaml", ".json", ".jinja", ".safetensors")
"""Python, and the suffixes of the package data in pyproject.toml."""
CONFIG = "run.yaml"
EMBEDDED = ("auto", "trained", "population-llama", "small-llama", "smollm2")
"""Model names and keywords that may stand in place of a path."""


def stage(root: Path, config: Path, overrides: Sequence[str], where: Path, folder: Path) -> dict[str, Any]:
    """Returns the configuration of a job, and writes the job's working directory to ``folder``.

    Args:
        root: the repository.
        config: the YAML file.
        overrides: ``key.sub=value``.
        where: the folder that relative paths start from.
        folder: receives the code of the packages and ``run.yaml``.

    Raises:
        ConfigError: the configuration is wrong; nothing is submitted.
    """
    settings = absolute_paths(to_dict(load_config(config, overrides)), where)
    for source in code_files(root):
        target = folder / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (folder / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    return settings


def code_files(root: Path) -> Iterator[Path]:
    """Yields the source files of the four packages, without data, links, hidden files and caches."""
    for package in CODE:
        for path in sorted((root / package).rglob("*")):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
            if path.is_file() and not path.is_symlink() and not hidden and path.suffix in SUFFIXES:
                yield path


def absolute_paths(settings: dict[str, Any], where: Path) -> dict[str, Any]:
    """Returns the settings with ``out_dir``, ``data.path`` and the folders of models and adapters made absolute.

    A model name that is not a local folder is a hub name and stays as it is.
    """

    def at(name: str | None) -> str | None:
        return name if name is None else str((where / Path(name).expanduser()).absolute())

    def folder(name: str | None) -> str | None:
        is_name = name is None or name in EMBEDDED or not (where / Path(name).expanduser()).exists()
        return name if is_name else at(name)

    result = {**settings, "out_dir": at(settings["out_dir"]), "backbone": folder(settings["backbone"])}
    result["data"] = {**settings["data"], "path": at(settings["data"]["path"])}
    simulator = settings["simulator"]
    result["simulator"] = {**simulator, "model": folder(simulator["model"]), "adapter": folder(simulator["adapter"])}
    result["engines"] = {k: {**v, "model": folder(v["model"])} for k, v in settings["engines"].items()}
    result["chatbots"] = {k: {**v, "adapter": folder(v["adapter"])} for k, v in settings["chatbots"].items()}
    return result


def main() -> None:
    """``python -m launch.cli.submission ROOT FOLDER CONFIG [key=value ...]`` fills FOLDER; prints the run directory."""
    root, folder, config, *overrides = sys.argv[1:]
    try:
        settings = stage(Path(root), Path(config), overrides, Path.cwd(), Path(folder))
    except RlenvError as error:
        sys.exit(f"error {error}")
    print(settings["out_dir"])


if __name__ == "__main__":
    main()
