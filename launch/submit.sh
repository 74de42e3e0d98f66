#!/usr/bin/env bash
# Submits a run to a Ray cluster and follows it: launch/submit.sh CONFIG [key=value ...]
#
# The job contains only code and the configuration: no data, no models, no environment variables, no secrets. Relative
# paths (out_dir, data.path, model folders) are relative to the current directory, and every node of the cluster must
# see them, for example on a shared file system. Ctrl-C stops following the job, not the job. The same command resumes
# an interrupted run. Set keys (WANDB_API_KEY, those of endpoints) in the environment in which the head node starts.
#
# A cluster, from the activated environment (source .venv/bin/activate) on every machine:
#   export RAY_AUTH_MODE=token                     # Ray refuses requests without the token
#   ray get-auth-token --generate                  # once; copy ~/.ray/auth_token to the other machines, mode 600
#   ray start --head --port 6379                   # the first machine
#   ray start --address HEAD:6379                  # each further machine
#   launch/submit.sh conf/paper.yaml data.path=/shared/sessions.jsonl.gz out_dir=/shared/runs/paper
#   ray stop                                       # on every machine, at the end
# RAY_ADDRESS is the address of the dashboard (default http://127.0.0.1:8265). PYTHON is the local interpreter, which
# checks the configuration; JOB_PYTHON is the one on the head node, which runs the job (default python). The exit code
# is 0 only if the job succeeds.
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
"$ray" job submit --address "$address" --submission-id "$job" --working-dir "$staging" \
  -- "${JOB_PYTHON:-python}" -m launch adversarial run.yaml
# When the connection is lost, Ray stops following the job and exits with 0 although it still runs; so poll its status.
while true; do
  status="$("$ray" job status --address "$address" "$job" 2>&1)" || true
  case "$status" in
    *"' succeeded"*) exit 0 ;;
    *"' failed"* | *"was stopped"* | *"does not exist"*) echo "$status" >&2; exit 1 ;;
  esac
  sleep "${POLL_S:-15}"
done
