"""``launch/resolve.sh`` on handmade packages: what fits together, what does not, and an index that does not answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def wheel(folder: Path, name: str, version: str, requires: str | None = None) -> None:
    """Writes an empty package."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def resolve(tmp_path):
    """Returns a function that runs the script beside a project whose extras want versions of one package."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "resolve.sh", tmp_path / "launch")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = ["first==1.0"]\n'
        '[project.optional-dependencies]\ncpu = ["second==1.0"]\ngpu = ["second==2.0"]\n'
    )
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "first", "1.0", "second<2")
    for version in ("1.0", "2.0"):
        wheel(wheels, "second", version)

    def run(*extras: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        environment |= {"PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, **variables}
        command = ["bash", str(tmp_path / "launch" / "resolve.sh"), *extras]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    run.wheels = str(wheels)  # type: ignore[attr-defined]
    return run


@pytest.mark.slow
def test_a_set_that_fits_together_is_told_and_one_that_does_not_ends_with_1(resolve):
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": resolve.wheels}
    fits = resolve("cpu", **here)
    assert fits.returncode == 0 and fits.stdout.startswith("cpu: 2 packages in"), fits.stderr
    both = resolve(**here)
    assert both.returncode == 1 and both.stdout.startswith("cpu: 2 packages")
    assert "gpu: no versions fit together" in both.stderr and "second" in both.stderr


@pytest.mark.slow
def test_an_index_that_does_not_answer_is_no_conflict(resolve):
    away = resolve("cpu", PIP_INDEX_URL="http://127.0.0.1:1/simple", PIP_RETRIES="1")
    assert away.returncode == 3 and "no index answers" in away.stderr


def test_an_extra_that_there_is_not_is_named_with_those_that_are(resolve):
    unknown = resolve("tpu")
    assert unknown.returncode == 2 and "no extra 'tpu'; there are cpu, gpu" in unknown.stderr
