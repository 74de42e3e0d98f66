#!/usr/bin/env bash
# Submits a run to a Ray cluster and follows it: launch/submit.sh CONFIG [key=value ...]
#
# The job contains only code and the configuration: no data, no models, no secrets, and of the environment only W&B's
# settings WANDB_MODE, WANDB_BASE_URL, WANDB_RUN_GROUP, WANDB_TAGS and WANDB_NOTES. Relative
# paths (out_dir, data.path, model folders) are relative to the current directory, and every node of the cluster must
# see them, for example on a shared file system. Ctrl-C stops following the job, not the job. The same command resumes
# an interrupted run. Set keys (WANDB_API_KEY, those of endpoints) in the environment in which the head node starts.
#
# launch/cluster/ starts clusters: one_node.sh, node.sh for several nodes, slurm.sbatch, kuberay.yaml.
# The driver runs on the head node unless it asks for resources that another has: ENTRYPOINT_CPUS, ENTRYPOINT_GPUS,
# ENTRYPOINT_MEMORY (bytes) and ENTRYPOINT_RESOURCES (JSON, such as '{"driver": 1}') are passed on to Ray.
# RAY_ADDRESS is the address of the dashboard (default http://127.0.0.1:8265). PYTHON is the local interpreter, which
# checks the configuration; JOB_PYTHON is the one on the head node, which runs the job (default python). The exit code
# is 0 only if the job succeeds. A head without an agent to start the job is asked again for AGENT_TIMEOUT_S (120).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ $# -ge 1 ] || { echo "usage: launch/submit.sh CONFIG [key=value ...]" >&2; exit 2; }
python="${PYTHON:-$here/.venv/bin/python}"
command -v "$python" >/dev/null || { echo "no $python: run launch/install.sh or set PYTHON" >&2; exit 1; }

staging="$(mktemp -d)"
trap 'rm -rf "$staging"' EXIT
out_dir="$(PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" "$python" -m launch.cli.submission "$here" "$staging" "$@")"
echo "run directory: $out_dir"
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
ray="$(dirname "$(command -v "$python")")/ray"
address="${RAY_ADDRESS:-http://127.0.0.1:8265}"
job="rlenv-$(date +%Y%m%d-%H%M%S)-$$"
options=()
[ -z "${ENTRYPOINT_CPUS:-}" ] || options+=(--entrypoint-num-cpus "$ENTRYPOINT_CPUS")
[ -z "${ENTRYPOINT_GPUS:-}" ] || options+=(--entrypoint-num-gpus "$ENTRYPOINT_GPUS")
[ -z "${ENTRYPOINT_MEMORY:-}" ] || options+=(--entrypoint-memory "$ENTRYPOINT_MEMORY")
[ -z "${ENTRYPOINT_RESOURCES:-}" ] || options+=(--entrypoint-resources "$ENTRYPOINT_RESOURCES")
environment="$("$python" -c 'import json, os
names = "WANDB_MODE", "WANDB_BASE_URL", "WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_NOTES"
found = {name: os.environ[name] for name in names if os.environ.get(name)}
print(json.dumps({"env_vars": found}) if found else "")')"
[ -z "$environment" ] || options+=(--runtime-env-json "$environment")
echo "job: $job (stop it with: ray job stop --address $address $job)"
# A head that has just started can answer before its agent is there, which starts the jobs.
deadline=$((SECONDS + ${AGENT_TIMEOUT_S:-120}))
until said="$("$ray" job submit --no-wait --address "$address" --submission-id "$job" --working-dir "$staging" \
  ${options[@]+"${options[@]}"} -- "${JOB_PYTHON:-python}" -m launch adversarial run.yaml 2>&1)"; do
  case "$said" in
    *"No available agent"*) [ "$SECONDS" -ge "$deadline" ] || { sleep "${POLL_S:-15}"; continue; } ;;
  esac
  printf '%s\nThe job was not submitted. Is a cluster at %s (RAY_ADDRESS)?\n' "$said" "$address" >&2
  exit 1
done
"$ray" job logs --follow --address "$address" "$job" || true  # the status decides
# When the connection is lost, Ray stops following a job that still runs; so poll its status.
while true; do
  status="$("$ray" job status --address "$address" "$job" 2>&1)" || true
  case "$status" in
    *"' succeeded"*) exit 0 ;;
    *"' failed"* | *"was stopped"* | *"does not exist"*) echo "$status" >&2; exit 1 ;;
  esac
  sleep "${POLL_S:-15}"
done
