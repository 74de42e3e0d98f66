"""Line 5 of Algorithm 1: the newest simulator's discriminator, with the controls that its accuracy needs.

It is trained on the adversarial users' contexts and validated on the evaluation users', so no context and no user is
in both sets. One launch trains, with identical settings, the discriminator; the leak control, which does not see the
user's words; and, for the base simulator, the power controls, against users that are known to be bad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.contents import HALF, LEAK, MAIN, NEW_USERS, POWER, SWAPPED, with_sessions
from rlenv.core.files import write_json
from rlenv.core.types import Adapter, Session
from rlenv.discriminator.controls import (
    Matched,
    cut_after_turn,
    match_lengths,
    shuffle_words_within_user,
    swap_users,
)
from rlenv.discriminator.labelled import LabelledSession
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.system_texts import discriminator_system_text, simulator_system_text, token_counter
from trainers.discriminator.config import DiscriminatorConfig, DiscriminatorJob
from trainers.discriminator.fit import fit_discriminators

SPOILT: dict[str, Callable[..., list[Session]]] = {
    POWER: shuffle_words_within_user,
    SWAPPED: swap_users,
    HALF: partial(swap_users, every=2),
}
"""How the user is spoilt in each power control."""


@dataclass(frozen=True)
class Labelled:
    """Real and simulated sessions, with the two classes balanced at every turn."""

    train: Matched
    validation: Matched


def label(
    real: Mapping[str, Sequence[Session]],
    simulated: Mapping[str, Sequence[tuple[str, Session]]],
    config: DiscriminatorConfig,
) -> Labelled:
    """Returns the discriminator's data: a real and a simulated session per context, cut to the same number of turns.

    Args:
        real: sessions by part.
        simulated: (context id, session) by part. One per context is used, since real sessions are not repeated.
        config: the numbers of sessions, real and simulated together.
    """

    def part(name: str, num_sessions: int) -> Matched:
        labelled_simulated = [LabelledSession(context_id=c, real=False, session=s) for c, s in simulated[name]]
        labelled_real = [LabelledSession(context_id=s.session_id, real=True, session=s) for s in real[name]]
        return match_lengths(labelled_real[: num_sessions // 2], labelled_simulated)

    return Labelled(
        part("adversarial", config.num_train_sessions),
        part("evaluation", config.num_validation_sessions),
    )


def label_simulated(
    real: Mapping[str, Sequence[Session]], simulated: Sequence[Simulated], config: DiscriminatorConfig
) -> Labelled:
    """Returns the data of a simulator's discriminator, with the first simulation of each context."""
    by_part = {
        name: [(s.context_id, s.session) for s in simulated if s.part == name and s.simulation == 0] for name in real
    }
    return label(real, by_part, config)


def label_bad(
    real: Mapping[str, Sequence[Session]],
    config: DiscriminatorConfig,
    max_turns: int,
    spoil: Callable[[Sequence[Session]], list[Session]],
) -> Labelled:
    """Returns the data of a power control: real sessions against the same sessions with the user spoilt.

    Sessions are cut at ``max_turns``, so that the control sees the same lengths as the discriminator.
    """
    cut = {name: [cut_after_turn(s, max_turns) for s in sessions] for name, sessions in real.items()}
    by_part = {
        name: [(s.session_id, bad) for s, bad in zip(sessions, spoil(sessions), strict=True)]
        for name, sessions in cut.items()
    }
    return label(cut, by_part, config)


def fit_discriminator(
    run: AdversarialRun,
    backbone: str,
    version: str,
    reader: Adapter,
    simulated: Sequence[Simulated],
    real: Mapping[str, Sequence[Session]],
) -> Path:
    """Returns the checkpoint of a new discriminator, trained on the newest simulator's sessions only (Eq. 3).

    Args:
        run: the run.
        backbone: the base model of a ``classifier``.
        version: the simulator's name.
        reader: the simulator that a ``likelihood`` discriminator reads with.
        simulated: the simulator's sessions.
        real: real sessions by part.
    """
    config = run.config
    likelihood = config.discriminator.kind == "likelihood"
    base_model = run.serving.simulator_model if likelihood else backbone

    def make(folder: Path) -> None:
        from transformers import AutoTokenizer

        run.serving.make_room()
        folder.mkdir()
        data = label_simulated(real, simulated, config.discriminator)
        jobs = version_jobs(folder, data, config.discriminator)
        if version == "base":
            for name, spoil in SPOILT.items():
                bad = label_bad(real, config.discriminator, config.env.max_turns, partial(spoil, seed=config.seed))
                jobs.append(_job(name, folder, bad, config.discriminator.num_control_sessions))
        count = token_counter(chat_format(AutoTokenizer.from_pretrained(base_model)))
        text = (simulator_system_text if likelihood else discriminator_system_text)(config.context, count)
        with run.training.phase(f"{version}: discriminators", f"discriminator-{version}") as options:
            results = fit_discriminators(
                jobs,
                run.training.seeded(config.discriminator),
                base_model,
                context_text=lambda session: text(session.context),
                reader=reader.path if likelihood else None,
                **options,
            )
        counts = {f"{part}_{k}": v for part in ("train", "validation") for k, v in _counts(getattr(data, part)).items()}
        losses = {f"{r.name}_loss_{when}": getattr(r, f"loss_{when}") for r in results for when in ("first", "last")}
        write_json(folder / "counts.json", counts | losses)

    return run.directory.once(f"{version}/discriminator", make) / MAIN


def version_jobs(folder: Path, data: Labelled, config: DiscriminatorConfig) -> list[DiscriminatorJob]:
    """Returns a version's discriminator, its leak control, and the discriminators that are trained on other sessions.

    Those are, for each number in ``learning_curve``, the discriminator with fewer training sessions, and of kind
    ``likelihood`` the one with the sides exchanged: out of fold it tells how well the evaluation users are told from
    their simulations by a discriminator that has not read the users whom the simulator was updated on.
    """
    main, leak = _job(MAIN, folder, data), _job(LEAK, folder, data, config.num_control_sessions)
    fewer = [
        replace(_job(with_sessions(number), folder, data), train=_pairs(main.train, number))
        for number in dict.fromkeys(config.learning_curve)
    ]
    new_users = [_job(NEW_USERS, folder, Labelled(data.validation, data.train))] if config.kind == "likelihood" else []
    return [main, replace(leak, blank_user=True), *fewer, *new_users]


def _job(name: str, folder: Path, data: Labelled, num_sessions: int | None = None) -> DiscriminatorJob:
    train, validation = (_pairs(part.items, num_sessions) for part in (data.train, data.validation))
    return DiscriminatorJob(name, folder / name, train, validation)


def _pairs(items: Sequence[LabelledSession], num_sessions: int | None) -> Sequence[LabelledSession]:
    """Returns the first pairs of a real and a simulated session, at most ``num_sessions`` sessions; None is all."""
    return items[: None if num_sessions is None else 2 * (num_sessions // 2)]


def _counts(matched: Matched) -> dict[str, int]:
    return {k: v for k, v in matched.model_dump(exclude={"items"}).items()}
