#!/usr/bin/env bash
# Installs rlenv and runs the tests, fast ones first, in three processes (RLENV_TEST_PROCESSES). The long tests, which kill
# every phase and every process or start many engines, run only with --exhaustive. Arguments go to pytest, for example:
#   launch/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec .venv/bin/python -m pytest -n "${RLENV_TEST_PROCESSES:-3}" --dist loadgroup --no-loadscope-reorder "$@"
