"""Every example runs as its docstring says, and prints what stands there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(name: str, *arguments: str) -> str:
    """What an example prints, run as a person runs it."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def promised(name: str) -> list[str]:
    """The output that the docstring shows: its indented lines but the command."""
    docstring = (EXAMPLES / name).read_text().split('"""')[1]
    return [
        line[4:] for line in docstring.splitlines() if line.startswith("    ") and not line.startswith("    python ")
    ]


@pytest.mark.parametrize("name", ["random_policy.py", "scripted_chatbot.py"])
def test_an_example_on_the_population_prints_what_its_docstring_shows(name: str) -> None:
    shown = promised(name)
    out = printed(name)
    assert shown and all(line in out for line in shown)


@pytest.mark.slow
def test_the_example_of_a_grpo_step_prints_a_reward_and_a_loss() -> None:
    assert "reward " in printed("trl_grpo.py")


@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.xdist_group("smollm2")
def test_the_example_of_a_vllm_chatbot_holds_a_conversation_like_its_docstrings(
    smollm2: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vllm_chatbot.py", str(smollm2.parent)])
    runpy.run_path(str(EXAMPLES / "vllm_chatbot.py"), run_name="__main__")  # in this process, on its Ray
    *conversation, blank, last = capsys.readouterr().out.splitlines()
    *shown, total = promised("vllm_chatbot.py")
    assert conversation[0] == shown[0]  # what the user opens with; the model's words depend on the machine
    said = [line.partition(": ") for line in conversation]
    assert [who for who, _, _ in said] == [("user", "chatbot")[i % 2] for i in range(len(said))] and len(said) >= 3
    assert all(words for _, _, words in said) and blank == ""
    numbers = r"[+-]?\d+(\.\d+)?"
    assert re.sub(numbers, "N", last) == re.sub(numbers, "N", total)
