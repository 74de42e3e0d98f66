"""Makes the small Llama that the package carries, or another one: pretraining alone, without a run around it."""

from __future__ import annotations

from pathlib import Path

from launch.config import RunConfig, to_dict
from launch.phases import prepare_model
from launch.run_directory import RunDirectory
from launch.serving import cluster
from trainers.ray_train import new_folder


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
