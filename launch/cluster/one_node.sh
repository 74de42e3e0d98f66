#!/usr/bin/env bash
# Runs a configuration on this machine as a job of a Ray cluster of its own, which ends with it:
#   launch/cluster/one_node.sh conf/paper.yaml data.path=sessions.jsonl.gz out_dir=runs/paper
# Ctrl-C stops the run; the same command resumes it. The exit code is 0 only if the run succeeds. For a run without Ray's
# dashboard and jobs, `rlenv adversarial` starts Ray itself. Settings of node.sh and submit.sh apply.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
[ $# -ge 1 ] || { echo "usage: launch/cluster/one_node.sh CONFIG [key=value ...]" >&2; exit 2; }
log="$(mktemp "${TMPDIR:-/tmp}/rlenv-head.XXXXXX")"
set -m # the head gets a process group of its own, so that only what was started here is ended
"$here/launch/cluster/node.sh" head >"$log" 2>&1 &
head=$!
set +m
trap 'kill -TERM -- "-$head" 2>/dev/null || true; wait "$head" 2>/dev/null || true' EXIT
for _ in $(seq "${START_S:-120}"); do
  if grep -q "Ray runtime started" "$log"; then
    rm -f "$log"
    "$here/launch/submit.sh" "$@"
    exit
  fi
  kill -0 "$head" 2>/dev/null || break
  sleep 1
done
cat "$log" >&2
echo "Ray did not start; its output is above and in $log. Is another head on port ${PORT:-6379}? Set PORT." >&2
exit 1
