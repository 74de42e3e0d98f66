#!/usr/bin/env bash
# Installs rlenv and runs the tests, fast ones first, in two processes (RLENV_TEST_PROCESSES). The long proofs are left
# out (every phase and every process killed, more engines): --exhaustive runs them too. Arguments go to pytest, as in:
#   launch/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec .venv/bin/python -m pytest -n "${RLENV_TEST_PROCESSES:-2}" --dist loadgroup --no-loadscope-reorder "$@"
