#!/usr/bin/env bash
# Installs rlenv and runs the fast checks: style, types, and the tests that start no engine, no Ray and no training.
# Arguments go to pytest. The whole suite is launch/test.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec bash launch/test.sh -q -m "not slow and not ray and not vllm" "$@"
