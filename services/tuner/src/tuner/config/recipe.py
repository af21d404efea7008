"""What to train, how and on what: the judged configuration with its defaults. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from tuner.config import document, keys, reserved
from tuner.config.problem import Problem

ALL_LINEAR: Final = "all-linear"
"""PEFT's word for every linear layer but the LM head; its own table knows neither phi3 nor qwen3_moe."""
DEFAULT_RANK: Final = 16
DEFAULT_TRAIN_SHARE: Final = 0.95
_DTYPES: Final = ("bfloat16", "float16", "float32", "auto")


class Method(StrEnum):
    """tuning.method of the Workspace."""

    LORA = "lora"
    QLORA = "qlora"


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How the frozen base is held while training."""

    bits: int
    """4 or 8."""
    kind: str = "nf4"
    double: bool = True
    skip_modules: tuple[str, ...] = ()
    threshold: float = 6.0


class DatasetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows, and which of their columns ("" to recognise the shape)."""

    shuffle: bool = True
    seed: int = 42
    train_share: float = DEFAULT_TRAIN_SHARE
    """1 trains on everything and evaluates nothing."""
    file: str = ""
    """Only this file of the data folder; "" for all."""
    context_column: str = ""
    response_column: str = ""
    messages_column: str = ""
    text_column: str = ""
    max_rows: int | None = None
    max_bad_rows: int | None = None
    """Broken rows that are skipped before the data is refused; None for 1 % of the rows, at least 10."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that training_config.yaml and the method say."""

    method: Method
    dtype: str = "auto"
    """Of the base and the computation; auto is the fastest one of the device."""
    chat_template: str = ""
    attention: str = ""
    """Attention implementation the user insists on; "" for the best that is there."""
    quantization: Quantization | None = None
    lora: dict[str, Any] = {}
    """Arguments of peft.LoraConfig, complete."""
    training: dict[str, Any] = {}
    """Arguments of trl.SFTConfig that the user set and that have an effect."""
    packing: bool | None = None
    """True: rows of max_length filled with samples; False: padding, grouped by length; None: no padding, the samples of a
    micro-batch in one row, if the model keeps them apart."""
    assistant_only: bool | None = None
    """None: where the chat template lets us find the assistant's tokens."""
    patience: int | None = None
    """Evaluations without a lower loss on the held-out samples after which the training ends; None for never."""
    threshold: float = 0.0
    """What counts as lower."""
    data: DatasetSettings = DatasetSettings()
    notes: tuple[str, ...] = ()
    """What was accepted without effect, in words."""


def parse(text: str, method: str) -> Recipe | tuple[Problem, ...]:
    """Judge the file's text ("" for all defaults) and complete it. All problems come back together; never raises."""
    if method not in tuple(Method):
        return (Problem("tuning.method", f"must be lora or qlora, not {method!r}"),)
    sections, problems = document.read(text or f"{document.ROOT}: {{}}")
    problems += _refusals(sections, method)
    quantization, found = _quantization(sections["QuantizationConfig"], Method(method))
    problems += found
    problems += _range_problems(sections)
    if problems:
        return tuple(problems)
    model, training = sections["ModelConfig"], sections["TrainingArguments"]
    return Recipe(
        method=Method(method),
        dtype=_dtype(model),
        chat_template=model.get("chat_template", ""),
        attention=model.get("attn_implementation", ""),
        quantization=quantization,
        lora=_lora(sections["LoraConfig"]),
        training={
            name: value
            for name, value in training.items()
            if name not in reserved.INERT
            and name not in reserved.TRAINING
            and name not in ("packing", "assistant_only_loss", *keys.OWN)
        },
        packing=training.get("packing"),
        assistant_only=training.get("assistant_only_loss"),
        patience=training.get("early_stopping_patience"),
        threshold=float(training.get("early_stopping_threshold", 0.0)),
        data=_dataset(sections["DatasetConfig"]),
        notes=_notes(sections),
    )


def _dtype(model: dict[str, Any]) -> str:
    return str(model.get("torch_dtype", model.get("dtype", "auto"))).removeprefix("torch.")


def _lora(section: dict[str, Any]) -> dict[str, Any]:
    rank = section.get("r", DEFAULT_RANK)
    kept = {
        name: value for name, value in section.items() if name not in reserved.LORA and name not in reserved.LORA_INERT
    }
    init = kept.get("init_lora_weights")
    if isinstance(init, str) and init.lower() in ("true", "false"):
        kept["init_lora_weights"] = init.lower() == "true"
    defaults = {"r": rank, "lora_alpha": 2 * rank, "lora_dropout": 0.0, "target_modules": ALL_LINEAR, "bias": "none"}
    return {**defaults, **kept, "task_type": "CAUSAL_LM"}


def _dataset(section: dict[str, Any]) -> DatasetSettings:
    columns = {
        name: section.get(name, "") for name in ("context_column", "response_column", "messages_column", "text_column")
    }
    if columns["response_column"] == "text" and not columns["context_column"]:
        # KAITO's default, which it never used: a lone column "text" is raw text.
        columns |= {"response_column": "", "text_column": ""}
    return DatasetSettings(
        shuffle=section.get("shuffle_dataset", True),
        seed=section.get("shuffle_seed", 42),
        train_share=section.get("train_test_split", DEFAULT_TRAIN_SHARE),
        file=section.get("dataset_path", ""),
        max_rows=section.get("max_rows"),
        max_bad_rows=section.get("max_bad_rows"),
        **columns,
    )


def _quantization(section: dict[str, Any], method: Method) -> tuple[Quantization | None, list[Problem]]:
    path = f"{document.ROOT}.QuantizationConfig"
    four, eight = section.get("load_in_4bit"), section.get("load_in_8bit")
    if method is Method.LORA:
        named = "load_in_4bit" if four else "load_in_8bit"
        if four or eight:
            why = "is true, but the Workspace's method is lora: choose method qlora, or set it to false"
            return None, [Problem(f"{path}.{named}", why)]
        return None, []
    if four and eight:
        return None, [Problem(path, "asks for 4 and for 8 bits: keep one of load_in_4bit and load_in_8bit")]
    if four is False and not eight:
        why = "is false, but the Workspace's method is qlora: choose method lora, or set it to true"
        return None, [Problem(f"{path}.load_in_4bit", why)]
    kind = section.get("bnb_4bit_quant_type", "nf4")
    if kind not in ("nf4", "fp4"):
        return None, [Problem(f"{path}.bnb_4bit_quant_type", f"must be nf4 or fp4, not {kind}")]
    skip = section.get("llm_int8_skip_modules", ())
    return (
        Quantization(
            bits=8 if eight else 4,
            kind=kind,
            double=section.get("bnb_4bit_use_double_quant", True),
            skip_modules=(skip,) if isinstance(skip, str) else tuple(skip),
            threshold=section.get("llm_int8_threshold", 6.0),
        ),
        [],
    )


def _refusals(sections: document.Sections, method: str) -> list[Problem]:
    training, lora = sections["TrainingArguments"], sections["LoraConfig"]
    found = [
        Problem(f"{document.ROOT}.TrainingArguments.{name}", f"cannot be set: {why}")
        for name, why in reserved.TRAINING.items()
        if training.get(name)
    ]
    if sections["ModelConfig"].get("trust_remote_code"):
        why = "cannot be true: code from a model folder is never run"
        found.append(Problem(f"{document.ROOT}.ModelConfig.trust_remote_code", why))
    return found + [
        Problem(f"{document.ROOT}.LoraConfig.{name}", why) for name, why in reserved.lora_refusals(lora, method)
    ]


_POSITIVE: Final = (
    ("TrainingArguments", "per_device_train_batch_size"),
    ("TrainingArguments", "gradient_accumulation_steps"),
    ("TrainingArguments", "per_device_eval_batch_size"),
    ("TrainingArguments", "num_train_epochs"),
    ("TrainingArguments", "learning_rate"),
    ("TrainingArguments", "max_length"),
    ("TrainingArguments", "save_steps"),
    ("TrainingArguments", "eval_steps"),
    ("TrainingArguments", "early_stopping_patience"),
    ("LoraConfig", "r"),
    ("LoraConfig", "lora_alpha"),
    ("DatasetConfig", "max_rows"),
)


def _range_problems(sections: document.Sections) -> list[Problem]:
    found = [
        Problem(f"{document.ROOT}.{section}.{name}", f"must be greater than 0, not {sections[section][name]}")
        for section, name in _POSITIVE
        if name in sections[section] and not sections[section][name] > 0
    ]
    share = sections["DatasetConfig"].get("train_test_split", 1)
    if not 0 < share <= 1:
        why = f"must be greater than 0 and at most 1 (the share that is trained on), not {share}"
        found.append(Problem(f"{document.ROOT}.DatasetConfig.train_test_split", why))
    dropout = sections["LoraConfig"].get("lora_dropout", 0)
    if not 0 <= dropout < 1:
        found.append(Problem(f"{document.ROOT}.LoraConfig.lora_dropout", f"must be from 0 to below 1, not {dropout}"))
    dtype = _dtype(sections["ModelConfig"])
    if dtype not in _DTYPES:
        why = f"must be one of {', '.join(_DTYPES)}, not {dtype}"
        found.append(Problem(f"{document.ROOT}.ModelConfig.torch_dtype", why))
    if sections["TrainingArguments"].get("bf16") and sections["TrainingArguments"].get("fp16"):
        found.append(Problem(f"{document.ROOT}.TrainingArguments.fp16", "excludes bf16: keep one of them"))
    return found


def _notes(sections: document.Sections) -> tuple[str, ...]:
    tables = (
        ("TrainingArguments", reserved.INERT),
        ("LoraConfig", reserved.LORA_INERT),
        ("ModelConfig", reserved.MODEL_INERT),
    )
    notes = [
        f"{section}.{name} has no effect: {why}"
        for section, inert in tables
        for name, why in inert.items()
        if name in sections[section]
    ]
    if sections["DataCollator"].get("mlm"):
        notes.append("DataCollator.mlm has no effect: these models predict the next token")
    if "dataset_extension" in sections["DatasetConfig"]:
        notes.append("DatasetConfig.dataset_extension has no effect: the format is told by the content")
    return tuple(notes)
