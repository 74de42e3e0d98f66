"""The base models of a run, and the pretraining of the small Llama: as a phase, or alone (``rlenv pretrain``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.adversarial.run import AdversarialRun
from launch.run.config.data import PopulationConfig
from launch.run.config.run import RunConfig
from launch.run.contents import SMALL_LLAMA, model_folder
from launch.run.training import Training
from rlenv.core.errors import ConfigError
from rlenv.core.files import new_folder
from rlenv.core.types import Seat
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.corpus import first_sessions
from rlenv.prompting.system_texts import SystemText, approximate_tokens, simulator_system_text
from trainers.pretrain.config import PretrainConfig
from trainers.pretrain.fit import fit_base_model
from trainers.sft.config import SftExample

PRETRAINING_SEED = 1_000_003
"""Added to the run's seed, so that the pretraining users are seen by no other phase."""


def pretrain(config: RunConfig, out: str | Path) -> Path:
    """Trains ``models/small-llama`` in ``config.out_dir`` and returns ``out``, a copy of it in bfloat16.

    Raises:
        RlenvError: a problem that the user can fix. Checkpoints are kept, and the same call resumes the training.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with new_folder(out) as copy:  # refuses a folder that exists before the training, not after
        with AdversarialRun(config).opened() as run:
            folder = prepare_model(run, SMALL_LLAMA)
        AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(copy)
        AutoTokenizer.from_pretrained(folder).save_pretrained(copy)
    return Path(out)


def prepare_model(run: AdversarialRun, name: str) -> str:
    """Returns the folder (or hub name) of a base model; trains "small-llama" and unpacks "smollm2" the first time."""
    if name != SMALL_LLAMA:
        return model_folder(run.directory, name)
    text = simulator_system_text(run.config.context, approximate_tokens)  # its tokenizer does not exist yet
    # Only seats that a model will take are trained: a simulator that also learns the chatbot's lines repeats them.
    hosted = any(chatbot.kind == "engine" for chatbot in run.chatbots.values())
    seats: tuple[Seat, ...] = ("user", "chatbot") if hosted else ("user",)
    return pretrain_small_llama(
        run.training, run.config.pretrain, run.config.data.population, {seat: text for seat in seats}
    )


def pretrain_small_llama(
    training: Training,
    settings: PretrainConfig,
    population: PopulationConfig,
    system_texts: Mapping[Seat, SystemText],
) -> str:
    """Returns the folder of the small Llama, trained once on sessions of the reference population.

    Args:
        training: the training phases of the run that keeps the model.
        settings: the model's shape and how it is trained.
        population: number of sessions, and the chatbots in them.
        system_texts: the system message of each seat that the model is trained for.
    """

    def make(folder: Path) -> None:
        habits = population.pretrain_habits
        chatbots = [make_chatbot(name, habits) for name in population.pretrain_chatbots or chatbot_names()]
        seed, wanted = training.seed + PRETRAINING_SEED, population.pretrain_traits
        sessions = first_sessions(
            population.num_pretrain_users,
            seed,
            chatbots,
            wanted=wanted,
            skip=population.skip_pretrain_users,
            factors=population.pretrain_factors,
        )
        examples = [
            SftExample(session_id=s.session_id, system=text(s.context), messages=s.messages, seat=seat)
            for s in sessions
            for seat, text in system_texts.items()
        ]
        if not examples:
            raise ConfigError(
                f"data.population.pretrain_traits: no user has all of {', '.join(wanted)} as asked; allow more values"
            )
        with training.phase("pretrain the small Llama", "pretrain") as options:
            start = settings.start and model_folder(training.directory, settings.start)
            fit_base_model(examples, replace(training.seeded(settings), start=start), folder, **options)

    return str(training.directory.once(f"models/{SMALL_LLAMA}", make))
