"""How many samples a step takes, how many steps there are, and the arguments for trl that follow. Pure."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from tuner.config.recipe import Recipe

EFFECTIVE_BATCH: Final = 8
"""Samples of one optimizer step, over all devices, where the user says nothing."""
LEARNING_RATE: Final = 2e-4
EPOCHS: Final = 3
WARMUP_SHARE: Final = 0.03
MAX_LENGTH: Final = 4096
"""Tokens of a sample where the user says nothing; models of long context change their position encoding above it."""
SAVES: Final = 10
"""Checkpoints spread over a run, where the user says nothing."""
MAX_SAVE_STEPS: Final = 500
KEPT: Final = 2
"""Checkpoints that stay, where the user says nothing."""
_OWN: Final = frozenset({"max_length", "eval_strategy", "gradient_accumulation_steps", "per_device_train_batch_size"})


class Batch(msgspec.Struct, frozen=True):
    """Samples of one forward pass on one device, and how many of those make a step."""

    micro: int
    accumulation: int

    @property
    def per_device(self) -> int:
        """Samples of one step on one device."""
        return self.micro * self.accumulation


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What one process finds."""

    cuda: bool = False
    bf16: bool = True
    """Whether bfloat16 is at least as fast as float32: GPUs from compute capability 8.0, CPUs with AMX. Others emulate it, or
    have instructions for it (AVX512-BF16) that reach half of float32's speed."""
    processes: int = 1


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that a trainer sees: samples, or packed rows of them."""

    train: int
    held_out: int


def batch(recipe: Recipe, processes: int, micro_limit: int | None) -> Batch:
    """Return the batch that the user asks for, in pieces of at most `micro_limit` samples."""
    given = recipe.training
    micro = given.get("per_device_train_batch_size", max(1, EFFECTIVE_BATCH // processes))
    whole = micro * given.get("gradient_accumulation_steps", 1)
    limit = micro if micro_limit is None else min(micro, micro_limit)
    micro = max(piece for piece in range(1, max(1, limit) + 1) if whole % piece == 0)
    return Batch(micro, whole // micro)


def smaller(present: Batch) -> int | None:
    """Return the micro-batch to try when memory ran out, None when it is one sample already."""
    return present.micro // 2 if present.micro > 1 else None


def precision(recipe: Recipe, found: Hardware) -> str:
    """Return the floating point type of the base and of the computation: the one asked for, else the fastest."""
    if recipe.dtype == "auto":
        if found.bf16 or recipe.training.get("bf16"):
            return "bfloat16"
        return "float16" if found.cuda else "float32"
    # Such a GPU would compute in software; a CPU obeys.
    return "float16" if recipe.dtype == "bfloat16" and found.cuda and not found.bf16 else recipe.dtype


def max_length(recipe: Recipe, context: int) -> int:
    """The longest sample, in tokens."""
    wanted = int(recipe.training.get("max_length", MAX_LENGTH))
    return min(wanted, context) if context > 0 else wanted


def total_steps(recipe: Recipe, rows: int, made: Batch, processes: int) -> int:
    """Optimizer steps of the whole run, as transformers counts them."""
    asked = recipe.training.get("max_steps", -1)
    if asked > 0:
        return int(asked)
    micro_batches = math.ceil(math.ceil(rows / processes) / made.micro)
    per_epoch = max(1, math.ceil(micro_batches / made.accumulation))
    epochs: float = recipe.training.get("num_train_epochs", EPOCHS)
    return math.ceil(epochs * per_epoch)


def save_steps(recipe: Recipe, steps: int) -> int:
    """Steps between two checkpoints: the most that a crash can cost."""
    asked = recipe.training.get("save_steps")
    if asked is None:
        return max(1, min(MAX_SAVE_STEPS, steps // SAVES))
    return max(1, math.ceil(asked * steps) if asked < 1 else int(asked))


def kept_checkpoints(recipe: Recipe) -> int:
    """How many checkpoints stay, 0 for all; where the best one counts, the newest stays beside it."""
    asked: int = max(0, recipe.training.get("save_total_limit", KEPT))
    return asked if recipe.patience is None or asked == 0 else max(2, asked)


def _eval_batch(recipe: Recipe, made: Batch) -> int:
    """Samples of an evaluation's forward pass: as asked for, until memory ran out; that may have been there."""
    asked = int(recipe.training.get("per_device_eval_batch_size", made.micro))
    limited = made.accumulation > recipe.training.get("gradient_accumulation_steps", 1)
    return min(asked, made.micro) if limited else asked


def arguments(recipe: Recipe, made: Batch, hardware: Hardware, counts: Counts, *, padding_free: bool) -> dict[str, Any]:
    """Return the arguments of trl.SFTConfig, but for its folders."""
    steps = total_steps(recipe, counts.train, made, hardware.processes)
    every = save_steps(recipe, steps)
    evaluates = counts.held_out > 0 and recipe.training.get("eval_strategy", "steps") != "no"
    computed = precision(recipe, hardware)
    bf16 = recipe.training.get("bf16", computed == "bfloat16")
    result: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": EPOCHS,
        "lr_scheduler_type": "cosine",
        "warmup_steps": WARMUP_SHARE,
        "gradient_checkpointing": hardware.cuda,
        "optim": "adamw_torch_fused",
        "ddp_find_unused_parameters": False,
        "ddp_backend": None if hardware.cuda or hardware.processes == 1 else "gloo",
        "dataloader_pin_memory": hardware.cuda,
        **{name: value for name, value in recipe.training.items() if name not in _OWN},
        "per_device_train_batch_size": made.micro,
        "per_device_eval_batch_size": _eval_batch(recipe, made),
        "gradient_accumulation_steps": made.accumulation,
        "use_cpu": not hardware.cuda,
        "bf16": bf16,
        "fp16": bool(recipe.training.get("fp16", hardware.cuda and not bf16 and computed != "float32")),
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": None,  # the trainer's own rotation goes by the clock, and comes before the new one is whole
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": recipe.training.get("eval_steps", every),
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "padding_free": padding_free,
        "max_length": None,  # samples are cut, and counted, before
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    if recipe.patience is not None:
        result |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,
        }
    if "train_sampling_strategy" not in recipe.training:
        result["train_sampling_strategy"] = "random" if padding_free else "group_by_length"
    return result
