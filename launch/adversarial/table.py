"""The results table of a run: a row per simulator version and one for real users, with the controls' verdicts.

It reads only ``metrics.jsonl``, so it can be printed again at any time (``rlenv table RUN``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from launch.run.contents import FURTHER_SFT, check_run
from launch.run.directory import RunDirectory
from launch.tracking.tracker import read_metrics

COLUMNS = (
    ("t1", "disc/accuracy_turn_01", "{:.2f}"),
    ("t5", "disc/accuracy_turn_05", "{:.2f}"),
    ("t10", "disc/accuracy_turn_10", "{:.2f}"),
    ("all", "disc/accuracy_overall", "{:.2f}"),
    ("leak", "disc/leak_accuracy", "{:.2f}"),
    ("whole", "disc/accuracy_session", "{:.2f}"),
    ("ref", "disc/referee_accuracy", "{:.2f}"),
    ("style", "disc/style_referee_accuracy", "{:.2f}"),
    ("H", "realism/entropy_mean", "{:.2f}"),
    ("TTR", "realism/ttr_mean", "{:.3f}"),
    ("bigr", "realism/bigram_mean", "{:.3f}"),
    ("words", "realism/words_per_message_mean", "{:.0f}"),
)
FILES = {
    "adapters": "adapter",
    "simulated sessions": "simulated/sessions.jsonl",
    "preference pairs": "preferences/pairs.jsonl",
}
"""What a person looks for in a version's folder."""
CAPTION = (
    "accuracy of the discriminator at turns 1, 5, 10, over all and on whole sessions (0.5 is the goal), of the leak "
    "control, and on whole sessions of the referees by word counts and by style; "
    "word entropy in bits, TTR and bigram diversity of the user's messages, and words per message"
)


def results_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the table of a run's metrics. A missing figure is a dash, never a zero."""
    table = Table(
        caption=CAPTION,
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("simulator", no_wrap=True)
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["version"], *(_cell(row, key, form) for _, key, form in COLUMNS))
    if rows:
        real = {key.replace("real/", "realism/"): v for key, v in rows[0].items() if key.startswith("real/")}
        table.add_section()
        table.add_row("real users", *(_cell(real, key, form) for _, key, form in COLUMNS))
    return table


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return "-" if value is None else form.format(value)


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """Returns one sentence per control. The accuracies are evidence of realism only if every control passes."""
    if not rows:
        return ["no version has been measured yet"]
    sentences = []
    power = rows[0].get("disc/power_accuracy")
    if power is not None:
        if power < 0.9:
            sentences.append(
                f"NOT EVIDENCE: against shuffled words the discriminator's accuracy is {power:.2f}, below 0.90: "
                "it is too weak for its low accuracy to mean anything"
            )
        else:
            sentences.append(f"power control: {power:.2f} against shuffled words (at least 0.90 is required)")
        caught = [
            f"{row:.2f} against other users' messages{where}"
            for key, where in (("swapped", ""), ("half", " at every second turn"))
            if (row := rows[0].get(f"disc/power_{key}_accuracy")) is not None
        ]
        if caught:
            sentences.append("coherent words in the wrong conversation: " + ", ".join(caught))
    for row in rows:
        version = row["version"]
        leak, session = row.get("disc/leak_accuracy"), row.get("disc/accuracy_session")
        bound = 0.5 + max(0.05, 2 * (row.get("disc/leak_se") or 0.0))
        if leak is not None and leak > bound:
            sentences.append(
                f"LEAK at {version}: without the user's words the accuracy is still {leak:.2f}, so part of the "
                "accuracy comes from something other than the user's words"
            )
        margin = row.get("disc/accuracy_session_se") or 0.0
        for key, judge in (("referee", "word-count"), ("style_referee", "style")):
            accuracy = row.get(f"disc/{key}_accuracy")
            if accuracy is not None and session is not None and accuracy > session + margin:
                sentences.append(
                    f"NOT EVIDENCE at {version}: the {judge} referee ({accuracy:.2f}) beats the discriminator "
                    f"on whole sessions ({session:.2f})"
                )
        if row.get("accept/taken") == 0:
            sentences.append(
                f"{version} was not taken: on the adversarial users its accuracy changed by "
                f"{row['accept/difference']:+.3f} (standard error {row['accept/standard_error']:.3f})"
            )
    if not any(s.startswith(("NOT", "LEAK")) for s in sentences):
        sentences.append("leak and referee controls: passed at every version")
    return sentences


def spoiled(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence on the sessions that the simulated user spoiled, which all figures include."""
    shares = [f"{row['version']} {row['faults/spoiled']:.0%}" for row in rows if row.get("faults/spoiled") is not None]
    if not shares:
        return []
    real = rows[0].get("faults/spoiled_real")
    people = "" if real is None else f"; real users {real:.0%}"
    return [f"sessions that the simulated user spoiled, included above: {', '.join(shares)}{people} (rlenv audit)"]


def learning_curves(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence for each number of training sessions of further discriminators (``learning_curve``)."""
    told: dict[int, list[str]] = {}
    for row in rows:
        for key, value in row.items():
            number = re.fullmatch(r"disc/accuracy_overall_(\d+)", key)
            if number and value is not None:
                told.setdefault(int(number[1]), []).append(f"{row['version']} {value:.2f}")
    return [f"over all turns, with {number} training sessions: {', '.join(told[number])}" for number in sorted(told)]


def new_users(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence on the discriminators that are trained on evaluation users, out of fold."""
    told = [
        f"{row['version']} {value:.2f}" for row in rows if (value := row.get("disc/new_users_accuracy")) is not None
    ]
    what = "over all turns, by discriminators that have read evaluation users alone (out of fold)"
    return [f"{what}: {', '.join(told)}"] if told else []


def learnt(rows: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence on what the updates learnt, measured on sessions that were held out (``dpo.held_out``)."""
    updates = [row for row in rows if row.get("dpo/held_out_gain") is not None]
    if not updates:
        return []
    each = [
        f"{row['version']} {row['dpo/held_out_gain']:+.3f}"
        + (f" of {most:.3f}" if (most := row.get("dpo/held_out_most")) is not None else "")
        for row in updates
    ]
    sentence = f"gain of the updates on held-out sessions, of what the rewards ask for (loss a turn): {', '.join(each)}"
    too_far = [row["version"] for row in updates if row["dpo/held_out_gain"] < 0]
    if too_far:
        sentence += f"; below 0, {' and '.join(too_far)} moved further than what was learnt: lower dpo.learning_rate"
    return [sentence]


DIVERSITY = (
    ("word entropy", "entropy"),
    ("type-token ratio", "ttr"),
    ("bigrams", "bigram"),
    ("words per message", "words_per_message"),
)


def in_short(rows: list[dict[str, Any]]) -> list[str]:
    """Returns what the run came to, in a few sentences without jargon."""
    trained = _versions(rows)
    if len(trained) < 2:
        return ["No version was trained after the base."]
    versions = [row for row in trained if row.get("accept/taken") != 0]
    if len(versions) < 2:
        return ["No version after the base was taken: a fresh judge tells each of them as well as the base."]
    first, last = versions[0], versions[-1]

    def change(key: str) -> tuple[float, float]:
        return first.get(f"disc/{key}") or 0.0, last.get(f"disc/{key}") or 0.0

    judged, referee = change("accuracy_overall"), change("referee_accuracy")
    sentences = [
        f"After each user message, the discriminator told {first['version']} from people in {judged[0]:.0%} of cases, "
        f"and tells {last['version']} in {judged[1]:.0%}; 50% is guessing. By word counts alone, whole sessions: "
        f"{referee[0]:.0%}, now {referee[1]:.0%}."
    ]
    further = next((row for row in versions[1:-1] if row["version"] == FURTHER_SFT), None)
    if further:
        told = further.get("disc/accuracy_overall") or 0.0
        sentences.append(f"Further fine-tuning on the same real sessions, without a discriminator, came to {told:.0%}.")
    closed, close = [], []
    for name, key in DIVERSITY:
        before, after = _distance(first, key), _distance(last, key)
        if before is None or after is None:
            continue
        if before <= 2 * _distance_error(first, key):
            close.append(name)
        else:
            closed.append(f"{name} {1 - after / before:.0%}")
    if closed:
        sentences.append(f"Of the base's distance to people, the last version closes: {', '.join(closed)}.")
    if close:
        sentences.append(f"The base was as close to people as chance allows in: {', '.join(close)}.")
    return sentences


def _versions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of simulators that were trained one after another; ``further_sft`` counts if it follows base."""
    return [
        row
        for place, row in enumerate(rows)
        if row["version"] == "base"
        or re.fullmatch(r"it\d+", row["version"])
        or (row["version"] == FURTHER_SFT and place == 1)
    ]


def _distance(row: dict[str, Any], key: str) -> float | None:
    """Returns how far a version's mean is from people's; None if it was not measured."""
    own, real = row.get(f"realism/{key}_mean"), row.get(f"real/{key}_mean")
    return None if own is None or real is None else abs(own - real)


def _distance_error(row: dict[str, Any], key: str) -> float:
    """Returns the standard error of the distance, from the spread over sessions."""
    num = max(1.0, (row.get("disc/num_session") or 0) / 2)
    spreads = (row.get(f"{who}/{key}_sd") or 0.0 for who in ("realism", "real"))
    return math.sqrt(sum(spread**2 for spread in spreads) / num)


def print_report(run: RunDirectory, console: Console | None = None) -> None:
    """Prints the table, the controls' verdicts, and where the run's files are.

    Raises:
        ConfigError: the folder holds no run.
        DataError: a file of the run is damaged.
    """
    check_run(run.root)
    console = console or Console()
    path = run.path("metrics.jsonl")
    rows = list(read_metrics(path)) if path.exists() else []
    console.print(results_table(rows))
    for sentence in [*verdicts(rows), *learning_curves(rows), *new_users(rows), *learnt(rows), *spoiled(rows)]:
        console.print(f"- {sentence}", highlight=False)
    console.print()
    for sentence in in_short(rows):
        console.print(sentence, highlight=False)
    console.print(f"\nin {run.root}:", highlight=False)
    lines = [
        *(f"{what:<20} {_first_to_last(run, rows, file)}" for what, file in FILES.items()),
        f"{'metrics, wall times':<20} metrics.jsonl, timings.jsonl",
        f"next: rlenv transcripts {run.root}   (one context, the versions side by side)",
    ]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    total = sum(run.timings().values())
    console.print(f"  wall time of the phases: {total / 60:.1f} min", highlight=False)


def _first_to_last(run: RunDirectory, rows: Sequence[Mapping[str, Any]], file: str) -> str:
    """Returns where the first and the last version's file of a kind are, of those that have one."""
    found = [name for row in rows if run.has(name := f"{row['version']}/{file}")]
    return " ... ".join(dict.fromkeys([found[0], found[-1]])) if found else "none"
