"""Line 5 of Algorithm 1: the newest simulator's discriminator, with the controls that its accuracy needs.

It is trained on the adversarial users' contexts and validated on the evaluation users', so no context and no user is
in both sets. One launch trains, with identical settings, the discriminator; the leak control, which does not see the
user's words; and, for the base simulator, the power control, against shuffled words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.contents import LEAK, MAIN, POWER
from rlenv.core.files import write_json
from rlenv.core.types import Session
from rlenv.discriminator.controls import Matched, cut_after_turn, match_lengths, shuffle_words_within_user
from rlenv.discriminator.labelled import LabelledSession
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.system_texts import discriminator_system_text, token_counter
from trainers.discriminator.config import DiscriminatorConfig, DiscriminatorJob
from trainers.discriminator.fit import fit_discriminators


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


def label_shuffled(
    real: Mapping[str, Sequence[Session]], config: DiscriminatorConfig, max_turns: int, seed: int
) -> Labelled:
    """Returns the data of the power control: real sessions against the same sessions with the user's words shuffled.

    Sessions are cut at ``max_turns``, so that the control sees the same lengths as the discriminator.
    """
    cut = {name: [cut_after_turn(s, max_turns) for s in sessions] for name, sessions in real.items()}
    by_part = {}
    for name, sessions in cut.items():
        shuffled = shuffle_words_within_user(sessions, seed)
        by_part[name] = [(s.session_id, other) for s, other in zip(sessions, shuffled, strict=True)]
    return label(cut, by_part, config)


def fit_discriminator(
    run: AdversarialRun,
    backbone: str,
    version: str,
    simulated: Sequence[Simulated],
    real: Mapping[str, Sequence[Session]],
) -> Path:
    """Returns the checkpoint of a new discriminator, trained on the newest simulator's sessions only (Eq. 3)."""
    config = run.config

    def make(folder: Path) -> None:
        from transformers import AutoTokenizer

        run.serving.make_room()
        folder.mkdir()
        data = label_simulated(real, simulated, config.discriminator)
        jobs = [_job(MAIN, folder, data), replace(_job(LEAK, folder, data), blank_user=True)]
        if version == "base":
            shuffled = label_shuffled(real, config.discriminator, config.env.max_turns, config.seed)
            jobs.append(_job(POWER, folder, shuffled))
        chat = chat_format(AutoTokenizer.from_pretrained(backbone))
        text = discriminator_system_text(config.context, token_counter(chat))
        with run.training.phase(f"{version}: discriminators", f"discriminator-{version}") as options:
            results = fit_discriminators(
                jobs,
                run.training.seeded(config.discriminator),
                backbone,
                context_text=lambda session: text(session.context),
                **options,
            )
        counts = {f"{part}_{k}": v for part in ("train", "validation") for k, v in _counts(getattr(data, part)).items()}
        losses = {f"{r.name}_loss_{when}": getattr(r, f"loss_{when}") for r in results for when in ("first", "last")}
        write_json(folder / "counts.json", counts | losses)

    return run.directory.once(f"{version}/discriminator", make) / MAIN


def _job(name: str, folder: Path, data: Labelled) -> DiscriminatorJob:
    return DiscriminatorJob(name, folder / name, data.train.items, data.validation.items)


def _counts(matched: Matched) -> dict[str, int]:
    return {k: v for k, v in matched.model_dump(exclude={"items"}).items()}
