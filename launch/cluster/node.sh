#!/usr/bin/env bash
# Starts one node of a Ray cluster, in the foreground, until it is interrupted:
#   launch/cluster/node.sh head                 # the first machine; prints the address for the others
#   launch/cluster/node.sh HEAD_ADDRESS:6379    # each further machine
#   launch/submit.sh conf/gpus/llama_2x8x80.yaml data.path=SHARED/sessions.jsonl.gz out_dir=SHARED/runs/one   # on the head
# Every machine needs the same environment (launch/install.sh), the same shared folder for runs, data and models, and the
# same token: `ray get-auth-token --generate` on the first, then copy ~/.ray/auth_token to the others with mode 600.
# PORT is the head's port (6379), DASHBOARD_HOST the address that its dashboard listens on (127.0.0.1: only from the head
# itself; RAY_ADDRESS=http://HEAD:8265 needs 0.0.0.0). RAY_OPTIONS has further options, such as
# RAY_OPTIONS='--num-gpus 8'. Set WANDB_API_KEY on the head, where the driver runs.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
[ $# -eq 1 ] || { echo "usage: launch/cluster/node.sh head|HEAD_ADDRESS:PORT" >&2; exit 2; }
ray="${RAY:-$here/.venv/bin/ray}"
command -v "$ray" >/dev/null || { echo "no $ray: run launch/install.sh or set RAY" >&2; exit 1; }
PATH="$(dirname "$(command -v "$ray")"):$PATH" # jobs find the same python
export PATH RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}" RAY_TRAIN_V2_ENABLED=1 RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
export RAY_worker_register_timeout_seconds="${RAY_worker_register_timeout_seconds:-300}" # slow shared disks
# shellcheck disable=SC2206 # options are separate words
options=(${RAY_OPTIONS:-})
if [ "$1" = head ]; then
  [ -n "${RAY_AUTH_TOKEN:-}" ] || "$ray" get-auth-token --generate >/dev/null
  exec "$ray" start --head --block --port "${PORT:-6379}" --dashboard-host "${DASHBOARD_HOST:-127.0.0.1}" \
    ${options[@]+"${options[@]}"}
fi
exec "$ray" start --block --address "$1" ${options[@]+"${options[@]}"}
