"""What a submitted job takes along: the code and one configuration, nothing else; ``launch/submit.sh`` calls it.

A job's working directory is a temporary copy on the cluster, so every path of the configuration becomes absolute here,
seen from where the command is given. Overrides go into the configuration: no shell ever reads them.
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
"""Those of pyproject.toml's package data, and Python."""
CONFIG = "run.yaml"
EMBEDDED = ("auto", "trained", "population-llama", "small-llama", "smollm2")
"""Words that stand where a path may stand."""


def stage(root: Path, config: Path, overrides: Sequence[str], where: Path, folder: Path) -> dict[str, Any]:
    """Writes a job's working directory to ``folder``; returns the configuration it will run.

    Args:
        root: the repository.
        config: the YAML file.
        overrides: ``key.sub=value``.
        where: the folder that relative paths are seen from.
        folder: is filled with the packages' code and ``run.yaml``.

    Raises:
        ConfigError: the configuration is wrong; nothing is submitted then.
    """
    settings = absolute_paths(to_dict(load_config(config, overrides)), where)
    for source in code_files(root):
        target = folder / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (folder / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    return settings


def code_files(root: Path) -> Iterator[Path]:
    """Yields the files of the four packages: no data, no links, no hidden files, no caches."""
    for package in CODE:
        for path in sorted((root / package).rglob("*")):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
            if path.is_file() and not path.is_symlink() and not hidden and path.suffix in SUFFIXES:
                yield path


def absolute_paths(settings: dict[str, Any], where: Path) -> dict[str, Any]:
    """Returns the settings with ``out_dir``, ``data.path`` and the folders of models and adapters made absolute.

    A model's name that is no folder here is a hub's name, and stays.
    """

    def at(name: str | None) -> str | None:
        return name if name is None else str((where / Path(name).expanduser()).absolute())

    def folder(name: str | None) -> str | None:
        known = name is None or name in EMBEDDED or not (where / Path(name).expanduser()).exists()
        return name if known else at(name)

    result = {**settings, "out_dir": at(settings["out_dir"]), "backbone": folder(settings["backbone"])}
    result["data"] = {**settings["data"], "path": at(settings["data"]["path"])}
    simulator = settings["simulator"]
    result["simulator"] = {**simulator, "model": folder(simulator["model"]), "adapter": folder(simulator["adapter"])}
    result["engines"] = {k: {**v, "model": folder(v["model"])} for k, v in settings["engines"].items()}
    result["chatbots"] = {k: {**v, "adapter": folder(v["adapter"])} for k, v in settings["chatbots"].items()}
    return result


def main() -> None:
    """``python -m launch.cli.submission ROOT FOLDER CONFIG [key=value ...]``: fills it; prints the run directory."""
    root, folder, config, *overrides = sys.argv[1:]
    try:
        settings = stage(Path(root), Path(config), overrides, Path.cwd(), Path(folder))
    except RlenvError as error:
        sys.exit(f"error {error}")
    print(settings["out_dir"])


if __name__ == "__main__":
    main()
