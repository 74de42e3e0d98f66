#!/usr/bin/env bash
# Installs rlenv and runs Algorithm 1 on the embedded, synthetic reference population: no GPU, no download but packages.
# Interrupted, the same command goes on. Further settings as key=value: launch/quickstart.sh out_dir=runs/mine seed=1
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec .venv/bin/rlenv adversarial conf/quickstart.yaml "$@"
