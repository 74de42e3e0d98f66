#!/usr/bin/env bash
# Installs rlenv and runs the tests in two processes (RLENV_TEST_PROCESSES); arguments go to pytest, as in:
#   launch/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec .venv/bin/python -m pytest -n "${RLENV_TEST_PROCESSES:-2}" --dist loadfile "$@"
