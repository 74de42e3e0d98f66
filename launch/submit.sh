#!/usr/bin/env bash
# Submits a run to a Ray cluster and follows it: launch/submit.sh CONFIG [key=value ...]
#
# The job takes along the code and the configuration alone: no data, no models, no environment variables, no secrets.
# Relative paths (out_dir, data.path, folders of models) are seen from where this is called; every node of the cluster
# must see them, as on a shared file system. Ctrl-C stops following, not the job. The same command goes on with a run
# that was interrupted. Keys (WANDB_API_KEY, those of endpoints) belong into the environment in which the head starts.
#
# A cluster, from the activated environment (source .venv/bin/activate) on every machine:
#   export RAY_AUTH_MODE=token                     # Ray answers nobody without a token
#   ray get-auth-token --generate                  # once; copy ~/.ray/auth_token to the other machines, mode 600
#   ray start --head --port 6379                   # the first machine
#   ray start --address HEAD:6379                  # each further machine
#   launch/submit.sh conf/paper.yaml data.path=/shared/sessions.jsonl.gz out_dir=/shared/runs/paper
#   ray stop                                       # on every machine, when all is done
# RAY_ADDRESS is the address of its dashboard (default http://127.0.0.1:8265); PYTHON the interpreter to check the
# configuration with here, JOB_PYTHON the one that runs it there (default python, as found by the head). The exit code is 0
# only after the job has succeeded.
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
# Where the connection is lost, Ray stops following a job that runs on, and calls that success: the status decides.
while true; do
  status="$("$ray" job status --address "$address" "$job" 2>&1)" || true
  case "$status" in
    *"' succeeded"*) exit 0 ;;
    *"' failed"* | *"was stopped"* | *"does not exist"*) echo "$status" >&2; exit 1 ;;
  esac
  sleep "${POLL_S:-15}"
done
