"""Precision and recall of the audit of simulated users, by kind of fault, on a labelled sample of the population.

    python tests/benchmarks/bench_user_faults.py [--sessions 1200] [--seed 1]

Prints one JSON line. ``value`` is the share of sessions that the audit calls rightly spoiled or not, ``baseline`` that
of calling none spoiled; ``kinds`` has precision and recall by kind, and ``forms`` the recall of each planted form (of
traps and plain sessions: the share that is called spoiled).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter

from rlenv.evaluation.user_faults import KINDS, user_faults
from rlenv.population.planted.faults import NONE, plant_faults
from rlenv.version import __version__


def measure(num: int, seed: int) -> dict[str, object]:
    """Returns the figures of one sample."""
    right, hits, told, planted = 0, Counter[str](), Counter[str](), Counter[str]()
    forms, found_forms = Counter[str](), Counter[str]()
    for sample in plant_faults(num, seed):
        found = user_faults(sample.session)
        right += bool(found) == (sample.kind != NONE)
        planted[sample.kind] += 1
        told.update(found)
        form = f"{sample.kind}: {sample.form}"
        forms[form] += 1
        found_forms[form] += sample.kind in found if sample.kind != NONE else bool(found)
        hits[sample.kind] += sample.kind in found
    kinds = {
        kind: {
            "planted": planted[kind],
            "precision": round(hits[kind] / told[kind], 3) if told[kind] else None,
            "recall": round(hits[kind] / planted[kind], 3),
        }
        for kind in KINDS
    }
    return {
        "value": round(right / num, 3),
        "baseline": round(planted[NONE] / num, 3),
        "unit": "share of sessions",
        "kinds": kinds,
        "forms": {form: round(found_forms[form] / forms[form], 2) for form in sorted(forms)},
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = measure(options.sessions, options.seed)
    about = {
        "benchmark": "user_faults",
        "seed": options.seed,
        "sessions": options.sessions,
        "versions": {"rlenv": __version__},
    }
    print(json.dumps({**about, **found, "machine": platform.machine()}))


if __name__ == "__main__":
    main()
