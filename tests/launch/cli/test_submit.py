"""``launch/submit.sh``: the files of a job, and one job on a real local cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from launch.cli.submission import absolute_paths, stage
from launch.plan.hardware import GIB, parse_gpus
from launch.plan.plan import plan_run
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.population.corpus import generate_sessions

ROOT = Path(__file__).parents[3]


def test_a_job_contains_only_code_and_one_configuration(tmp_path):
    repository, folder = tmp_path / "repository", tmp_path / "staging"
    included = [
        "rlenv/__init__.py",
        "rlenv/wording/a.yaml",
        "actors/pool.py",
        "trainers/sft/fit.py",
        "launch/cli/main.py",
    ]
    excluded = [
        ".git/config", ".venv/lib/a.py", "runs/x/config.yaml", "data/sessions.jsonl.gz", "rlenv/sessions.jsonl", ".env",
        "launch/.env", "launch/.secret.yaml", "rlenv/__pycache__/a.py", "wandb/run.json", "key.json",
        "models/m.safetensors",
    ]  # fmt: skip
    for name in included + excluded:
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (repository / "rlenv" / "link.py").symlink_to(repository / "key.json")
    config = tmp_path / "c.yaml"
    config.write_text("seed: 3\n")
    stage(repository, config, ["dpo.beta=0.5", "name=it's $HOME; {x}"], tmp_path, folder)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == sorted(
        [*included, "run.yaml"]
    )
    staged = load_config(folder / "run.yaml")
    assert (staged.seed, staged.dpo.beta, staged.name) == (3, 0.5, "it's $HOME; {x}")


def test_the_staged_code_of_this_repository_can_be_imported_alone(tmp_path):
    stage(ROOT, ROOT / "conf" / "quickstart.yaml", [], tmp_path, tmp_path / "s")
    code = (
        "import launch.adversarial.algorithm as a, rlenv.population.corpus as c; print(a.__file__); "
        "c.generate_sessions(1, 1, 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "s", capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(tmp_path / "s" / "launch" / "adversarial" / "algorithm.py")


def test_paths_become_absolute_and_model_names_stay(tmp_path):
    (tmp_path / "my-model").mkdir()
    overrides = ["data.path=d.jsonl", "simulator.model=my-model", "backbone=small-llama", "chatbots.a.adapter=trained"]
    from launch.run.settings import to_dict

    settings = absolute_paths(to_dict(load_config(None, overrides)), tmp_path)
    assert settings["out_dir"] == str(tmp_path / "runs" / "adversarial")
    assert settings["data"]["path"] == str(tmp_path / "d.jsonl")
    assert settings["simulator"]["model"] == str(tmp_path / "my-model")
    assert (settings["backbone"], settings["engines"]["simulator"]["model"]) == ("small-llama", "auto")
    assert settings["chatbots"]["a"]["adapter"] == "trained"
    hub = absolute_paths(to_dict(load_config(None, ["out_dir=/shared/x"])), tmp_path)
    assert (hub["simulator"]["model"], hub["out_dir"]) == ("meta-llama/Llama-3.3-70B-Instruct", "/shared/x")
    assert hub["data"]["path"] is None


def test_a_wrong_configuration_is_reported_before_anything_is_submitted(tmp_path):
    with pytest.raises(ConfigError, match="betta"):
        stage(ROOT, ROOT / "conf" / "quickstart.yaml", ["dpo.betta=1"], tmp_path, tmp_path / "s")
    command = [ROOT / "launch" / "submit.sh", ROOT / "conf" / "quickstart.yaml", "dpo.betta=1"]
    result = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert result.returncode == 1 and "betta" in result.stderr and "Traceback" not in result.stderr
    usage = subprocess.run(command[:1], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr


def stand_ins(folder: Path, ray_code: str) -> dict[str, str]:
    """Returns an environment whose interpreter has a shell script beside it in place of ``ray``."""
    python, ray = folder / "python", folder / "ray"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    ray.write_text(f"#!/bin/sh\n{ray_code}")
    for file in (python, ray):
        file.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "ENTRYPOINT_", "RAY_"))}
    return environment | {"PYTHON": str(python), "RAY": str(ray), "POLL_S": "0"}


def test_resources_of_the_driver_and_settings_of_wandb_are_passed_on_but_no_key(tmp_path):
    code = f"""for word in "$@"; do echo "$word" >> {tmp_path}/calls; done
if [ "$2" = status ]; then echo "Job 'x' succeeded"; fi
"""
    environment = stand_ins(tmp_path, code) | {
        "ENTRYPOINT_CPUS": "2", "ENTRYPOINT_GPUS": "0.5", "ENTRYPOINT_RESOURCES": '{"driver": 1}',
        "WANDB_MODE": "offline", "WANDB_TAGS": 'a,"b" c', "WANDB_API_KEY": "a-secret",
    }  # fmt: skip
    command = [ROOT / "launch" / "submit.sh", ROOT / "conf" / "quickstart.yaml"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "calls").read_text().splitlines()

    def after(option: str) -> str:
        return words[words.index(option) + 1]

    assert (after("--entrypoint-num-cpus"), after("--entrypoint-num-gpus")) == ("2", "0.5")
    assert json.loads(after("--entrypoint-resources")) == {"driver": 1} and "--entrypoint-memory" not in words
    passed = json.loads(after("--runtime-env-json"))
    assert passed == {"env_vars": {"WANDB_MODE": "offline", "WANDB_TAGS": 'a,"b" c'}}
    assert "a-secret" not in (tmp_path / "calls").read_text()
    assert "ray job stop --address http://127.0.0.1:8265 rlenv-" in done.stdout


CLUSTER = ROOT / "launch" / "cluster"


@pytest.mark.parametrize("script", sorted(p.name for p in CLUSTER.iterdir() if p.suffix in (".sh", ".sbatch")))
def test_the_scripts_of_a_cluster_are_shell_and_say_how_to_use_them(script):
    assert subprocess.run(["bash", "-n", CLUSTER / script]).returncode == 0
    usage = subprocess.run(["bash", CLUSTER / script], capture_output=True, text=True)
    assert usage.returncode == 2 and f"launch/cluster/{script}" in usage.stderr


def test_a_node_starts_as_the_head_or_joins_with_token_authentication(tmp_path):
    environment = stand_ins(tmp_path, f'echo "$RAY_AUTH_MODE $@" >> {tmp_path}/calls\n') | {
        "RAY_OPTIONS": "--num-gpus 8"
    }
    for argument in ("head", "10.0.0.7:6379"):
        subprocess.run(["bash", CLUSTER / "node.sh", argument], env=environment, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "token get-auth-token --generate",
        "token start --head --block --port 6379 --dashboard-host 127.0.0.1 --num-gpus 8",
        "token start --block --address 10.0.0.7:6379 --num-gpus 8",
    ]


def test_a_head_that_does_not_start_is_an_error_with_its_output(tmp_path):
    environment = stand_ins(tmp_path, "[ $1 = start ] || exit 0; echo the port is taken; exit 1\n")
    command = ["bash", CLUSTER / "one_node.sh", ROOT / "conf" / "quickstart.yaml"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "the port is taken" in done.stderr and "Set PORT" in done.stderr


@pytest.mark.parametrize("result", ["succeeded", "failed"])
def test_one_node_ends_the_head_that_it_started_and_returns_the_jobs_result(result, tmp_path):
    code = f"""case "$1 $2" in
"start --head") echo $$ > {tmp_path}/head; echo "Ray runtime started."; exec sleep 600 ;;
"job status") echo "Job 'x' {result}" ;;
esac
"""
    command = ["bash", CLUSTER / "one_node.sh", ROOT / "conf" / "quickstart.yaml"]
    environment = stand_ins(tmp_path, code)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == (result == "failed"), done.stderr
    assert not psutil.pid_exists(int((tmp_path / "head").read_text()))


def test_the_kuberay_file_asks_for_the_gpus_and_the_host_memory_of_its_configuration():
    cluster = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    config = load_config(ROOT / "conf" / "gpus" / "llama_2x8x80.yaml", ["data.path=x"])
    plan = plan_run(config, parse_gpus("2x8x80"))
    requests = container["resources"]["requests"]
    assert group["replicas"] * int(requests["nvidia.com/gpu"]) == plan.gpus.total
    assert int(requests["memory"].removesuffix("Gi")) * GIB > max(map(plan.host_bytes, plan.phases))
    assert group["replicas"] * int(requests["cpu"]) >= plan.num_cpus
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("last", "code"), [("Job 'x' succeeded", 0), ("Job 'x' failed", 1), ("Job 'x' was stopped", 1)]
)
def test_after_a_lost_connection_the_jobs_status_decides_the_exit_code(last, code, tmp_path):
    code_of_ray = f"""echo "$@" >> {tmp_path}/calls
if [ "$2" = submit ]; then echo "Job is currently running."; exit 0; fi
if [ "$(grep -c 'job status' {tmp_path}/calls)" -lt 3 ]; then echo "Status for job 'x': RUNNING"; else echo "{last}"; fi
"""
    command = [ROOT / "launch" / "submit.sh", ROOT / "conf" / "quickstart.yaml"]
    environment = stand_ins(tmp_path, code_of_ray) | {"RAY_ADDRESS": "http://h:1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == code and len(calls) == 5
    assert all("--address http://h:1" in call for call in calls)
    assert calls[0].endswith("-- python -m launch adversarial run.yaml") and "runtime-env" not in calls[0]


@pytest.mark.parametrize(("failures", "limit", "code"), [(2, "120", 0), (9, "0", 1)])
def test_a_head_without_an_agent_is_asked_again_until_the_limit(failures, limit, code, tmp_path):
    code_of_ray = f"""echo "$2" >> {tmp_path}/calls
case "$2" in
submit) if [ "$(grep -c submit {tmp_path}/calls)" -le {failures} ]; then
    echo "RuntimeError: status code 500: No available agent to submit job"; exit 1; fi ;;
status) echo "Job 'x' succeeded" ;;
esac
"""
    command = [ROOT / "launch" / "submit.sh", ROOT / "conf" / "quickstart.yaml"]
    environment = stand_ins(tmp_path, code_of_ray) | {"AGENT_TIMEOUT_S": limit}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    calls = (tmp_path / "calls").read_text().split()
    assert done.returncode == code
    assert calls == (["submit"] * 3 + ["logs", "status"] if code == 0 else ["submit"])
    assert ("RAY_ADDRESS" in done.stderr) == (code == 1)


def test_another_failure_to_submit_ends_at_once_with_what_ray_said(tmp_path):
    environment = stand_ins(tmp_path, f'echo "$2" >> {tmp_path}/calls; echo "no such cluster"; exit 1\n')
    command = [ROOT / "launch" / "submit.sh", ROOT / "conf" / "quickstart.yaml"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "no such cluster" in done.stderr
    assert (tmp_path / "calls").read_text().split() == ["submit"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_run_whose_phases_do_not_fit_together_ends_in_its_run_directory_with_wandbs_offline_files(
    head, tmp_path, tiny_llama, finished_run, write_config
):
    """It ends because each phase releases its resources."""
    write_sessions(tmp_path / "sessions.jsonl.gz", generate_sessions(50, 1, 5))
    scripted = {"backend": "scripted", "max_model_len": 1024}
    config = write_config(
        name="submitted",
        backbone=str(tiny_llama),
        simulator={"model": str(tiny_llama), "adapter": str(finished_run / "base/adapter")},
        engines={
            "simulator": {**scripted, "num_gpus": 5, "num_cpus": 1.25},
            "chatbot": {**scripted, "num_gpus": 3, "num_cpus": 0.5, "model": str(tiny_llama), "seed": 7},
        },
        chatbots={"llm": {"kind": "engine", "engine": "chatbot", "sampling": {"max_tokens": 20}}},
        collect={"num_contexts": 8},
        discriminator={"max_tokens": 1024, "num_train_sessions": 8, "num_validation_sessions": 4, "epochs": 1},
        train={"num_cpus": 1},  # with the engines' 1.75 CPUs more than 2
        scoring={"num_cpus": 0.75},  # fits beside the simulator alone
        tracking={"wandb": True},
    )
    command = [str(ROOT / "launch" / "submit.sh"), str(config), "data.path=sessions.jsonl.gz", "out_dir=runs/submitted"]
    done = subprocess.run(command, env=head.environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "submitted"
    assert f"run directory: {run}" in done.stdout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["version"] for row in rows] == ["base", "it1"]
    sessions = read_sessions(run / "it1" / "simulated" / "sessions.jsonl", neighbours="keep")
    assert {s.chatbot for s in sessions} == {"llm"}
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["path"] == str(tmp_path / "sessions.jsonl.gz")
