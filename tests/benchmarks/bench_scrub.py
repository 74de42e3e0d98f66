"""Recall and precision of ``rlenv scrub`` by kind of personal data, on a labelled sample of the population.

    python tests/benchmarks/bench_scrub.py [--messages 1600] [--seed 1]

Prints one JSON line. ``value`` is the share of planted items of which nothing is left, ``baseline`` that of Presidio's
recognizers and spaCy's names alone, without rlenv's patterns. An item counts as found whatever kind it is called, and
only if all of it is replaced. ``precision`` is the share of replacements that hit a planted item or a name of the
population.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter

from rlenv.data import scrubbing
from rlenv.data.scrubbing import Scrubber
from rlenv.population.planted.identifiers import Labelled, plant_identifiers
from rlenv.version import __version__


def covered(found: list[tuple[int, int]], start: int, end: int, text: str) -> bool:
    """Returns whether every letter and digit between two places lies within a found span."""
    return all(any(a <= i < b for a, b in found) for i in range(start, end) if text[i].isalnum())


def measure(scrubber: Scrubber, sample: list[Labelled]) -> dict[str, object]:
    """Returns the figures of one sample."""
    planted, hits, replaced, right, traps = (Counter[str]() for _ in range(5))
    for one in sample:
        found = scrubber.find(one.text)
        spans = [(f.start, f.end) for f in found]
        labels = [*one.also, *([one.planted] if one.planted else [])]
        for f in found:
            replaced[f.kind] += 1
            right[f.kind] += any(f.start < end and start < f.end for start, end in labels)
        traps["hit"] += one.kind == "trap" and any(not any(a < e and s < b for s, e in one.also) for a, b in spans)
        if one.planted:
            planted[one.kind] += 1
            hits[one.kind] += covered(spans, *one.planted, one.text)
    kinds = {
        kind: {
            "planted": planted[kind],
            "recall": round(hits[kind] / planted[kind], 3),
            "precision": round(right[kind] / replaced[kind], 3) if replaced[kind] else None,
        }
        for kind in planted
    }
    total = sum(planted.values())
    return {
        "value": round(sum(hits.values()) / total, 3),
        "precision": round(sum(right.values()) / sum(replaced.values()), 3),
        "kinds": kinds,
        "traps_hit": traps["hit"],
        "traps": sum(one.kind == "trap" for one in sample),
    }


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sample, scrubber = plant_identifiers(options.messages, options.seed), Scrubber()
    found = measure(scrubber, sample)
    scrubbing._OWN.clear()
    alone = measure(scrubber, sample)["value"]
    about = {"benchmark": "scrub", "seed": options.seed, "messages": options.messages, "unit": "share of planted items"}
    about |= {"scrubber": scrubber.name, "versions": {"rlenv": __version__}, "machine": platform.machine()}
    print(json.dumps({**about, **found, "baseline": alone}))


if __name__ == "__main__":
    main()
