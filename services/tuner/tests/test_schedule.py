from __future__ import annotations

from typing import Any

import pytest

from tuner.config.recipe import Method, Recipe
from tuner.schedule import (
    Batch,
    Counts,
    Hardware,
    arguments,
    batch,
    kept_checkpoints,
    max_length,
    precision,
    save_steps,
    smaller,
    total_steps,
)

AMX, CPU, GPU, V100 = Hardware(), Hardware(bf16=False), Hardware(cuda=True), Hardware(cuda=True, bf16=False)


def recipe(**training: Any) -> Recipe:
    return Recipe(method=Method.LORA, training=training)


@pytest.mark.parametrize(
    ("training", "processes", "limit", "expected"),
    [
        ({}, 1, None, Batch(8, 1)),
        ({}, 2, None, Batch(4, 1)),
        ({}, 16, None, Batch(1, 1)),
        ({}, 1, 4, Batch(4, 2)),
        ({}, 1, 3, Batch(2, 4)),
        ({}, 1, 1, Batch(1, 8)),
        ({"per_device_train_batch_size": 1}, 1, None, Batch(1, 1)),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}, 1, None, Batch(6, 4)),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 4}, 1, 3, Batch(3, 8)),
        ({"per_device_train_batch_size": 7}, 1, 3, Batch(1, 7)),
    ],
)
def test_the_effective_batch_is_kept(training: Any, processes: int, limit: int | None, expected: Batch) -> None:
    assert batch(recipe(**training), processes, limit) == expected


@pytest.mark.parametrize(("limit", "expected"), [(None, 32), (8, 32), (4, 4)])
def test_an_evaluation_takes_no_more_at_a_time_once_memory_ran_out(limit: int | None, expected: int) -> None:
    asked = recipe(per_device_eval_batch_size=32)
    given = arguments(asked, batch(asked, 1, limit), GPU, Counts(train=80, held_out=8), padding_free=True)
    assert given["per_device_eval_batch_size"] == expected


def test_the_micro_batch_goes_down_to_one_sample() -> None:
    assert [smaller(Batch(size, 1)) for size in (8, 3, 2, 1)] == [4, 1, 1, None]


@pytest.mark.parametrize(
    ("training", "rows", "made", "processes", "steps"),
    [
        ({}, 800, Batch(8, 1), 1, 300),
        ({}, 801, Batch(8, 1), 1, 303),
        ({"num_train_epochs": 0.5}, 800, Batch(8, 1), 1, 50),
        ({"max_steps": 7}, 800, Batch(8, 1), 1, 7),
        ({}, 800, Batch(4, 1), 2, 300),
        ({}, 3, Batch(8, 1), 1, 3),
        ({}, 20, Batch(2, 4), 1, 9),
    ],
)
def test_steps(training: Any, rows: int, made: Batch, processes: int, steps: int) -> None:
    assert total_steps(recipe(**training), rows, made, processes) == steps


@pytest.mark.parametrize(
    ("training", "steps", "every"),
    [({}, 300, 30), ({}, 5, 1), ({}, 100_000, 500), ({"save_steps": 7}, 300, 7), ({"save_steps": 0.2}, 300, 60)],
)
def test_checkpoints_are_spread(training: Any, steps: int, every: int) -> None:
    assert save_steps(recipe(**training), steps) == every


@pytest.mark.parametrize(
    ("training", "context", "expected"),
    [
        ({}, 131072, 4096),
        ({}, 2048, 2048),
        ({}, 0, 4096),
        ({"max_length": 512}, 2048, 512),
        ({"max_length": 9000}, 2048, 2048),
    ],
)
def test_a_sample_is_never_longer_than_the_context(training: Any, context: int, expected: int) -> None:
    assert max_length(recipe(**training), context) == expected


@pytest.mark.parametrize(
    ("hardware", "dtype", "bf16", "fp16"),
    [
        (AMX, "auto", True, False),
        (CPU, "auto", False, False),
        (CPU, "bfloat16", True, False),
        (CPU, "float32", False, False),
        (CPU, "float16", False, False),
        (GPU, "auto", True, False),
        (GPU, "bfloat16", True, False),
        (GPU, "float16", False, True),
        (GPU, "float32", False, False),
        (V100, "auto", False, True),
        (V100, "bfloat16", False, True),
    ],
)
def test_precision(hardware: Hardware, dtype: str, bf16: bool, fp16: bool) -> None:
    made = arguments(
        Recipe(method=Method.LORA, dtype=dtype), Batch(8, 1), hardware, Counts(train=80, held_out=4), padding_free=True
    )
    assert (made["bf16"], made["fp16"], made["use_cpu"]) == (bf16, fp16, not hardware.cuda)


@pytest.mark.parametrize(
    ("hardware", "dtype", "training", "expected"),
    [
        (CPU, "auto", {}, "float32"),
        (CPU, "auto", {"bf16": True}, "bfloat16"),
        (CPU, "bfloat16", {}, "bfloat16"),
        (AMX, "auto", {}, "bfloat16"),
        (GPU, "auto", {}, "bfloat16"),
        (GPU, "float32", {}, "float32"),
        (V100, "auto", {}, "float16"),
        (V100, "bfloat16", {}, "float16"),
        (V100, "float32", {}, "float32"),
    ],
)
def test_the_base_is_held_in_what_the_device_computes_fastest(
    hardware: Hardware, dtype: str, training: Any, expected: str
) -> None:
    assert precision(Recipe(method=Method.LORA, dtype=dtype, training=training), hardware) == expected


def test_what_the_user_says_wins_and_what_the_tuner_must_decide_stays() -> None:
    given = recipe(learning_rate=1e-5, lr_scheduler_type="linear", num_train_epochs=1, max_length=64, eval_steps=5)
    made = arguments(given, Batch(4, 2), CPU, Counts(train=80, held_out=4), padding_free=False)
    assert (made["learning_rate"], made["lr_scheduler_type"], made["eval_steps"]) == (1e-5, "linear", 5)
    assert (made["per_device_train_batch_size"], made["gradient_accumulation_steps"]) == (4, 2)
    assert (made["max_length"], made["logging_nan_inf_filter"], made["save_strategy"]) == (None, False, "steps")
    assert (made["eval_strategy"], made["train_sampling_strategy"]) == ("steps", "group_by_length")


def test_nothing_held_out_is_nothing_evaluated() -> None:
    made = arguments(recipe(), Batch(8, 1), CPU, Counts(train=80, held_out=0), padding_free=True)
    assert made["eval_strategy"] == "no"
    assert (made["learning_rate"], made["lr_scheduler_type"], made["warmup_steps"]) == (2e-4, "cosine", 0.03)


def test_early_stopping_keeps_the_best_checkpoint() -> None:
    recipe = Recipe(method=Method.LORA, patience=2)
    made = arguments(recipe, Batch(8, 1), CPU, Counts(train=80, held_out=4), padding_free=True)
    assert made["load_best_model_at_end"]
    assert (made["metric_for_best_model"], made["greater_is_better"]) == ("eval_loss", False)
    assert made["save_steps"] == made["eval_steps"]


@pytest.mark.parametrize(
    ("asked", "patience", "kept"), [({}, None, 2), ({"save_total_limit": 1}, None, 1), ({"save_total_limit": 1}, 3, 2)]
)
def test_how_many_checkpoints_stay(asked: dict[str, int], patience: int | None, kept: int) -> None:
    recipe = Recipe(method=Method.LORA, training=asked, patience=patience)
    assert kept_checkpoints(recipe) == kept
    made = arguments(recipe, Batch(8, 1), CPU, Counts(train=80, held_out=4), padding_free=True)
    assert made["save_total_limit"] is None, "the trainer's own rotation would go by the clock"
