#!/usr/bin/env bash
# Lists the licences of the installed packages and the known vulnerabilities among them (pip-audit), for people to read.
# Needs the network and changes nothing in .venv; without a network, or where pip-audit is not to be had, it says so and
# succeeds, so CI can call it. Ends with 1 only if --strict is given and there is a vulnerability.
#   launch/supply_chain.sh [--strict]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -x .venv/bin/python ] || { echo "no .venv: run launch/test.sh or launch/quickstart.sh first" >&2; exit 1; }
.venv/bin/python - <<'PYTHON'
from collections import Counter
from importlib.metadata import distributions


def licence(meta):
    listed = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or [] if c.startswith("License :: ")]
    given = (meta.get("License-Expression") or "").strip() or ", ".join(listed) or (meta.get("License") or "").strip()
    files = ", ".join(meta.get_all("License-File") or [])
    return (given.splitlines() or [f"see its {files}" if files else "unknown"])[0][:60]


found = {d.metadata["Name"]: (d.version, licence(d.metadata)) for d in distributions()}
for name, (version, terms) in sorted(found.items(), key=lambda item: item[0].lower()):
    print(f"{name:<40} {version:<16} {terms}")
print("\nby licence:")
for terms, number in Counter(terms for _, terms in found.values()).most_common():
    print(f"{number:>5}  {terms}")
PYTHON
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
frozen="$tools/frozen.txt"
.venv/bin/python -m pip freeze --exclude-editable 2>/dev/null | sed 's/+.*//' | grep -E '^[A-Za-z0-9._-]+==[0-9]' \
  > "$frozen"  # torch==2.13.0+cpu has the vulnerabilities of torch==2.13.0
if ! .venv/bin/python -m venv "$tools/venv" || ! timeout 300 "$tools/venv/bin/pip" install -q pip-audit; then
  echo "pip-audit cannot be installed here (no network?): vulnerabilities were not looked up" >&2
  exit 0
fi
timeout 600 "$tools/venv/bin/pip-audit" --no-deps --disable-pip -r "$frozen" --progress-spinner off --format json \
  > "$tools/found.json"
.venv/bin/python - "$tools/found.json" "${1:-}" <<'PYTHON'
import json
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text()
if not text.strip():
    print("pip-audit gave no answer (no network?): vulnerabilities were not looked up", file=sys.stderr)
    sys.exit(0)
packages = json.loads(text)["dependencies"]
unknown = [p["name"] for p in packages if "skip_reason" in p]
found = [(p["name"], p["version"], v["id"], v["fix_versions"]) for p in packages for v in p.get("vulns", [])]
print(f"\npip-audit: {len(packages) - len(unknown)} of {len(packages)} packages looked up, {len(found)} vulnerabilities")
for name, version, vulnerability, fixes in found:
    print(f"  {name} {version}: {vulnerability}, mended in {', '.join(fixes) or 'no version yet'}")
if unknown:
    print(f"  not looked up, since the index does not know them: {', '.join(unknown[:5])}{' ...' * (len(unknown) > 5)}")
sys.exit(bool(found) and "--strict" in sys.argv)
PYTHON
