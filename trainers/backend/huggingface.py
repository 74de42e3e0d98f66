"""What the loops on transformers' Trainer (SFT, DPO, RL) share: arguments, checkpoints and the adapter's folder.

Independent of losses and data. Imports transformers, peft and torch only inside functions, so that the settings of the
training loops can be read without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rlenv.core.adapters import tidy_adapter
from rlenv.core.canary import write_canary
from rlenv.core.errors import PhaseError
from rlenv.core.progress import progressed
from rlenv.models.hardware import resolve_precision
from trainers.backend.canary import make_canary
from trainers.backend.config import AdapterTraining
from trainers.backend.worker import Worker

CHECKPOINT = "checkpoint"


def training_arguments(worker: Worker, config: AdapterTraining, **changes: Any) -> dict[str, Any]:
    """Returns the arguments of transformers' ``TrainingArguments`` that all these loops share.

    Args:
        worker: the worker's place in the run.
        config: the settings.
        changes: arguments to replace or add.
    """
    arguments: dict[str, Any] = {
        "output_dir": str(worker.scratch / "transformers"),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup,
        "max_grad_norm": config.max_grad_norm,
        "weight_decay": config.weight_decay,
        "bf16": resolve_precision(config.dtype, worker.device) == "bfloat16",
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "use_cpu": worker.device == "cpu",
        "seed": config.seed,
        "data_seed": config.seed,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if config.save_every else "no",
        "save_steps": config.save_every or 500,
        "save_total_limit": 1,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": worker.device != "cpu",
        "remove_unused_columns": False,
    }
    if config.shard:
        arguments["fsdp"] = True
        arguments["fsdp_config"] = {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "cpu_ram_efficient_loading": True,  # see load_base
        }
    return arguments | changes


def callbacks(worker: Worker) -> list[Any]:
    """Returns the callbacks that write progress, pass checkpoints to Ray Train, and check that sharding takes place."""
    import torch
    from torch.distributed.tensor import DTensor
    from transformers import TrainerCallback

    class ShardingCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if args.fsdp and not any(isinstance(p, DTensor) for p in model.parameters()):
                raise PhaseError(
                    "shard: the model is not sharded (accelerate leaves FSDP out on the CPU and with one worker); "
                    "set shard to false, or train on two or more GPUs"
                )

    class ProgressCallback(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            worker.progress.begin()

        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progressed()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                numbers = {k: float(v) for k, v in logs.items() if isinstance(v, (int, float, str)) and _is_number(v)}
                worker.progress.write(state.global_step, state.max_steps, **numbers)

    class CheckpointCallback(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()  # every rank has written its part

            def write(folder: Path) -> None:
                shutil.copytree(Path(args.output_dir) / f"checkpoint-{state.global_step}", folder / CHECKPOINT)
                drop_frozen_adapters(folder / CHECKPOINT)

            worker.save_checkpoint({"step": float(state.global_step)}, write)

    return [ShardingCallback(), ProgressCallback(), CheckpointCallback()]


def drop_frozen_adapters(checkpoint: Path) -> None:
    """Removes the adapters in a checkpoint's subfolders: the frozen reference ``ref``, which is rebuilt on resuming.

    If there are any, transformers loads only those when it resumes and ignores the trained adapter in the folder
    itself: the run would silently restart from the reference.
    """
    for folder in [p for p in checkpoint.iterdir() if (p / "adapter_config.json").is_file()]:
        shutil.rmtree(folder)


def train_and_resume(trainer: Any, worker: Worker, config: AdapterTraining) -> None:
    """Runs a transformers Trainer, from the run's last checkpoint if there is one."""
    with worker.resume() as folder, activations_on_host() if config.offload_activations else nullcontext():
        trainer.train(resume_from_checkpoint=str(folder / CHECKPOINT) if folder else None)


def activations_on_host() -> AbstractContextManager[None]:
    """Returns a context in which activations wait for the backward pass in the host's memory; weights stay.

    Values do not change, so losses and gradients are the same.
    """
    import torch

    def pack(tensor: Any) -> Any:
        if tensor.grad_fn is None:  # weights, and what needs no gradient
            return tensor
        host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)  # with its strides: equal rounding
        return tensor.device, host.copy_(tensor.detach())

    def unpack(packed: Any) -> Any:
        return packed[1].to(packed[0], non_blocking=True) if isinstance(packed, tuple) else packed

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def load_base(base_model: str, dtype: str, device: str, shard: bool = False) -> Any:
    """Returns the causal language model that the adapter is added to.

    With ``shard`` only the first worker of each node reads the weights. In the others they are zeros, which take no
    memory until they are written, and accelerate sends each its shard of the first worker's when training begins.
    """
    import torch
    from transformers import AutoModelForCausalLM

    precision = getattr(torch, resolve_precision(dtype, device))
    with _read_by_one_worker() if shard else nullcontext():
        model = AutoModelForCausalLM.from_pretrained(base_model, dtype=precision)
    model.config.use_cache = False
    return model


@contextmanager
def _read_by_one_worker() -> Iterator[None]:
    """Tells transformers to read weights on the first worker of a node alone: the way is accelerate's variables."""
    names = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "true"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def linear_names(model: Any) -> list[str]:
    """Returns the short names of a backbone's linear layers, without the heads: Table 6's "all-linear"."""
    import torch

    backbone = getattr(model, model.base_model_prefix)
    return sorted({n.rsplit(".", 1)[-1] for n, m in backbone.named_modules() if isinstance(m, torch.nn.Linear)})


def require_positions(base_model: str, longest: int, what: str) -> None:
    """Raises PhaseError if the longest training row exceeds the model's positions; ``what`` names the training."""
    from transformers import AutoConfig

    limit = getattr(AutoConfig.from_pretrained(base_model).get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise PhaseError(
            f"{what}: the longest row has {longest} tokens, but the model has {limit} positions; "
            "lower the context budget (context.budget_tokens) or the sessions' max_tokens"
        )


def save_adapter(trainer: Any, worker: Worker, tokenizer: Any, out_dir: str) -> None:
    """Writes the adapter named ``default`` as an ordinary PEFT folder, with its canary; equal weights give equal bytes.

    Every rank must call it, because a sharded model is gathered first. The folder is complete when any rank returns.

    Raises:
        PhaseError: the weights are not numbers any more.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    canary = make_canary(model, tokenizer, "bfloat16" if trainer.args.bf16 else "float32")
    if worker.rank == 0:
        model.save_pretrained(out_dir, selected_adapters=["default"], state_dict=state)
        tidy_adapter(out_dir)
        write_canary(canary, out_dir)
    trainer.accelerator.wait_for_everyone()


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
