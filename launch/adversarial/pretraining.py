"""Base models of a run, and the small Llama's pretraining: as a phase, or alone (``rlenv pretrain``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.run.config import RunConfig
from launch.run.contents import model_folder
from launch.run.directory import RunDirectory
from launch.run.progress import training
from launch.run.roster import roster
from launch.run.serving import cluster
from launch.run.settings import to_dict
from rlenv.core.files import new_folder
from rlenv.core.types import Seat
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.corpus import first_sessions
from rlenv.prompting.system_texts import SystemText, approximate_tokens, simulator_system_text
from trainers.pretrain.fit import fit_base_model
from trainers.sft.config import SftExample


def pretrain(config: RunConfig, out: str | Path) -> Path:
    """Trains ``models/small-llama`` in ``config.out_dir``, or goes on with it; returns its copy in bfloat16 at ``out``.

    Raises:
        RlenvError: what a person can mend; checkpoints stay, and the same call goes on from there.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = RunDirectory(config.out_dir)
    with new_folder(out) as where, run.locked():  # a folder that exists is told before the training, not after
        run.open(to_dict(config))
        with cluster(config.ray):
            folder = prepare_model(run, config, "small-llama")
        AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").save_pretrained(where)
        AutoTokenizer.from_pretrained(folder).save_pretrained(where)
    return Path(out)


def prepare_model(run: RunDirectory, config: RunConfig, name: str) -> str:
    """Returns the folder (or hub name) of a base model; "small-llama" is trained, "smollm2" unpacked, once."""
    if name != "small-llama":
        return model_folder(run, name)

    build = simulator_system_text(config.context, approximate_tokens)  # its tokenizer is still to be made
    # A seat that no model will take is not learnt: a simulator that also learnt the chatbot's lines says them.
    hosted = any(chatbot.kind == "engine" for chatbot in roster(config).values())
    seats: tuple[Seat, ...] = ("user", "chatbot") if hosted else ("user",)
    return pretrain_small_llama(run, config, {seat: build for seat in seats})


def pretrain_small_llama(run: RunDirectory, config: RunConfig, system_texts: Mapping[Seat, SystemText]) -> str:
    """Returns the folder of the small Llama, trained once on what users and scripted chatbots say to each other.

    Args:
        run: where it is kept.
        config: shape, training and number of sessions.
        system_texts: of each seat that it learns.
    """

    def make(folder: Path) -> None:
        # Users that no other phase sees: another seed is another population.
        population = config.data.population
        habits = population.pretrain_habits
        met = [make_chatbot(name, habits) for name in population.pretrain_chatbots or chatbot_names()]
        sessions = first_sessions(population.num_pretrain_users, config.seed + 1_000_003, met)
        examples = [
            SftExample(session_id=s.session_id, system=build(s.context), messages=s.messages, seat=seat)
            for s in sessions
            for seat, build in system_texts.items()
        ]
        with training("pretrain the small Llama", run.path("logs/pretrain.jsonl")) as progress:
            fit_base_model(
                examples,
                replace(config.pretrain, seed=config.seed),
                folder,
                resources=config.train,
                storage_path=run.path("training"),
                progress_path=progress,
            )

    return str(run.once("models/small-llama", make))
