#!/usr/bin/env bash
# Installs rlenv and runs Algorithm 1 on the embedded, synthetic reference population. It needs no GPU and downloads only
# packages. The same command resumes an interrupted run. Settings: launch/quickstart.sh out_dir=runs/mine seed=1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec .venv/bin/rlenv adversarial conf/quickstart.yaml "$@"
