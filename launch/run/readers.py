"""Which phases read a setting. What no finished phase has read may change when a run is resumed.

So a mistake that shows after days of training, such as the address of a chatbot, can be corrected without training
again, and the files are still those of an undisturbed run with the corrected settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Patterns = tuple[str, ...]
Readings = Patterns | Callable[[Any, Any], Patterns]
Readers = Mapping[str, Readings]
"""A setting, or the start of its dotted key, to the phases that read it, as patterns of their folders. A part of the
key may be ``*``. The longest start that fits counts; "" stands for all other settings. ``{name}`` in a pattern is the
part of the key after the start. A function returns the patterns of a change from one value to another."""

SMALL = "models/small-llama"
TRAINED = ("base/adapter", "further_sft/adapter")
SIMULATED = "*/simulated"
JUDGED = ("*/acceptance", "it*/adapter")
MACHINE: Readers = dict.fromkeys(
    (
        "name",
        "ray",
        "tracking",
        "keep_engines",
        "train.keep_workers",
        "train.max_failures",
        "train.answer_timeout_s",
        "train.startup_timeout_s",
    ),
    (),
)
"""Settings that no result depends on."""
IN_CONVERSATIONS = ("base_url", "model", "api_key_env", "function", "sampling", "habits", "name")
"""Settings of a chatbot that no training reads."""


def fewer_iterations(old: int, new: int) -> Patterns:
    """Returns what stands in the way of fewer iterations: later versions, and preferences of the last one.

    More iterations change nothing that exists: what the last version led to is made anew (``launch.adversarial.rows``).
    """
    if new >= old:
        return ()
    last = (f"it{new}",) if new else ("base", "further_sft")
    return (*(f"{name}/preferences" for name in last), *(f"it{number}/*" for number in range(new + 1, old + 1)))


def earlier_end(old: Any, new: Any) -> Patterns:
    """Returns what stands in the way of a run that ends earlier than it might have; none where it may go on longer."""
    longer = new == "never" if isinstance(new, str) else new >= old
    return () if longer else JUDGED


ADVERSARIAL: Readers = {
    "": ("data", SMALL, "*/adapter", SIMULATED, "chatbots/*"),
    **MACHINE,
    "num_iterations": fewer_iterations,
    "data.max_sft_sessions": (*TRAINED, "chatbots/*"),
    "pretrain": (SMALL,),
    "sft": TRAINED,
    "simulator.adapter": ("*/adapter", SIMULATED),
    "simulator.sampling": (SIMULATED,),
    "chatbot_sft": ("chatbots/*",),
    "chatbots": (SMALL, "chatbots/{name}", SIMULATED),  # the small Llama learns the seats that it will take
    **{f"chatbots.*.{field}": (SIMULATED,) for field in IN_CONVERSATIONS},
    "chatbots.*.timeout_s": (),
    "zero_shot": ("{name}/*",),
    "zero_shot.*.timeout_s": (),
    "engines": ("chatbots/*", SIMULATED),
    "engines.*.answer_timeout_s": (),
    "env": (SIMULATED,),
    "collect": (SIMULATED,),
    "collect.concurrency": (),
    "collect.max_failed_share": (),
    "backbone": (SMALL, "*/discriminator"),
    "discriminator": ("*/discriminator", "*/acceptance"),
    "discriminator.num_train_sessions": (SIMULATED,),
    "discriminator.num_validation_sessions": (SIMULATED,),
    "accept": JUDGED,
    "accept_margin": JUDGED,
    "most_tries": earlier_end,
    "stop": earlier_end,
    "preferences": ("*/preferences",),
    "scoring": ("*/preferences", "*_of_*/simulated"),
    "scoring.answer_timeout_s": (),
    "dpo": ("it*/adapter",),
    "dpo.targets": ("*/preferences", "it*/adapter"),
    "further_sft": ("further_sft/*", "it*/adapter"),
    "resampled": ("*_of_*/*",),
    "train": (SMALL, *TRAINED, "chatbots/*", "*/discriminator", "it*/adapter"),
}
"""Of a run of Algorithm 1."""

ROUNDS = ("rounds/*", "rl*/adapter")
CHATBOT: Readers = {
    "": (SMALL, "chatbots/*", "*/measured", *ROUNDS),
    "name": (),
    "max_failed_share": (),
    "answer_timeout_s": (),
    **{f"settings.{key}": phases for key, phases in MACHINE.items()},
    "settings.chatbot_sft": ("chatbots/*",),
    "settings.env": ("*/measured", *ROUNDS),
    "settings.scoring": ("*/measured", *ROUNDS),
    **dict.fromkeys(("settings.scoring.answer_timeout_s", "settings.engines.*.answer_timeout_s"), ()),
    "users.*.timeout_s": (),
    "chatbot.sampling": ("*/measured", *ROUNDS),
    **{key: ("*/measured", *ROUNDS) for key in ("rewards", "ensemble", "held_out", "users", "evaluation", "resample")},
    "evaluation.held_out_judge": ("*/judged",),
    **{key: ROUNDS for key in ("rl", "faults", "alternate_every", "refresh")},
}
"""Of a run that trains a chatbot."""


def readers_of(key: str, readers: Readers, old: Any = None, new: Any = None) -> Patterns:
    """Returns the patterns of the phases that read a setting whose value was ``old`` and is to be ``new``.

    >>> readers_of("zero_shot.hosted.base_url", ADVERSARIAL)
    ('hosted/*',)
    >>> readers_of("ray.num_cpus", ADVERSARIAL)
    ()
    >>> readers_of("num_iterations", ADVERSARIAL, 2, 3), readers_of("num_iterations", ADVERSARIAL, 2, 1)
    ((), ('it1/preferences', 'it2/*'))
    """
    parts = key.split(".")

    def fits(start: str) -> bool:
        wanted = start.split(".") if start else []
        return len(wanted) <= len(parts) and all(w in ("*", part) for w, part in zip(wanted, parts, strict=False))

    size, start = max((len(start.split(".")) if start else 0, start) for start in readers if fits(start))
    name = parts[size] if len(parts) > size else "*"
    return tuple(pattern.replace("{name}", name) for pattern in _patterns(readers[start], old, new))


def _patterns(found: Readings, old: Any, new: Any) -> Patterns:
    return found(old, new) if callable(found) else found


def below(prefix: str, folder: str, readers: Readers) -> Readers:
    """Returns the readers for a run in ``folder`` of another one, whose settings are the section ``prefix`` there."""

    def moved(found: Readings) -> Readings:
        return lambda old, new: tuple(f"{folder}/{pattern}" for pattern in _patterns(found, old, new))

    return {f"{prefix}.{key}" if key else prefix: moved(found) for key, found in readers.items()}


def until_labelled(found: Readings) -> Readings:
    """Returns the readings of a setting that a study's labels depend on too: all versions are labelled in one phase."""
    return lambda old, new: (*_patterns(found, old, new), "labelled")


OF_ITS_RUN = below("run", "adversarial", ADVERSARIAL)
STUDY: Readers = {
    "": ("adversarial/data",),
    **OF_ITS_RUN,
    **{key: until_labelled(OF_ITS_RUN[key]) for key in ("run.num_iterations", "run.most_tries", "run.stop")},
    "goals": ("report",),
    "judge_sessions": ("labelled",),
    "size_sessions_per_chatbot": ("sizes/*/*/simulated",),
    "simulated_sessions_per_chatbot": ("measured/*/simulated",),
}
"""Of a study."""
