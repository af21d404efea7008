from __future__ import annotations

from pathlib import Path

import pytest

from tuner.config.recipe import Quantization, Recipe, parse
from tuner.exits import ExitCode, FatalError
from tuner.supervisor import read_recipe

KAITO_QLORA = """
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""


def recipe(text: str, method: str = "qlora") -> Recipe:
    found = parse(text, method)
    assert isinstance(found, Recipe), [str(problem) for problem in found]
    return found


def section(name: str, body: str) -> str:
    return f"training_config:\n  {name}: {{{body}}}\n"


def test_kaitos_own_template_is_taken_in_full() -> None:
    found = recipe(KAITO_QLORA)
    assert found.quantization == Quantization(bits=4, kind="nf4", double=True)
    assert found.lora == {
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    assert found.training == {"ddp_find_unused_parameters": False, "per_device_train_batch_size": 1}
    assert found.data.train_share == 1
    assert {note.partition(" ")[0] for note in found.notes} == {
        "TrainingArguments.output_dir",
        "TrainingArguments.save_strategy",
        "ModelConfig.local_files_only",
        "ModelConfig.device_map",
        "DataCollator.mlm",
    }


@pytest.mark.parametrize("text", ["", "training_config:\n", "training_config: {}\n"])
def test_no_configuration_gives_the_defaults(text: str) -> None:
    found = recipe(text, "lora")
    assert found.quantization is None
    assert (found.lora["r"], found.lora["lora_alpha"], found.lora["target_modules"]) == (16, 32, "all-linear")
    assert (found.packing, found.assistant_only, found.data.train_share) == (None, None, 0.95)
    assert recipe(text, "qlora").quantization == Quantization(bits=4)


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ("learning_rate: 2e-4", "learning_rate", 0.0002),
        ("learning_rate: '2e-4'", "learning_rate", 0.0002),
        ("gradient_checkpointing: 'False'", "gradient_checkpointing", False),
        ("max_steps: 10.0", "max_steps", 10),
        ("seed: '7'", "seed", 7),
        ("num_train_epochs: 1", "num_train_epochs", 1),
    ],
)
def test_values_written_as_text_are_read(body: str, name: str, value: object) -> None:
    read = recipe(section("TrainingArguments", body)).training[name]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "method", "path", "words"),
    [
        (section("TrainingArguments", "learning_rat: 1"), "lora", "learning_rat", "did you mean learning_rate?"),
        (section("TrainingArgs", "seed: 1"), "lora", "TrainingArgs", "did you mean TrainingArguments?"),
        (section("TrainingArguments", "max_seq_length: 512"), "lora", "max_seq_length", "is called max_length"),
        (section("TrainingArguments", "warmup_ratio: 0.1"), "lora", "warmup_ratio", "warmup_steps below 1"),
        (section("TrainingArguments", "evaluation_strategy: steps"), "lora", "evaluation_strategy", "eval_strategy"),
        (section("TrainingArguments", "r: 8"), "lora", "TrainingArguments.r", "belongs to the section LoraConfig"),
        (section("TrainingArguments", "learning_rate: fast"), "lora", "learning_rate", "must be a number, not 'fast'"),
        (section("TrainingArguments", "learning_rate: .nan"), "lora", "learning_rate", "must be a number"),
        (section("TrainingArguments", "learning_rate: -1"), "lora", "learning_rate", "greater than 0"),
        (section("TrainingArguments", "seed: 1.5"), "lora", "seed", "a whole number"),
        (section("TrainingArguments", "bf16: maybe"), "lora", "bf16", "true or false"),
        (section("TrainingArguments", "bf16: true, fp16: true"), "lora", "fp16", "excludes bf16"),
        (section("TrainingArguments", "push_to_hub: true"), "lora", "push_to_hub", "cannot be set"),
        (
            section("TrainingArguments", "deepspeed: ds.json"),
            "lora",
            "deepspeed",
            "planned by the workspace controller",
        ),
        (section("ModelConfig", "trust_remote_code: true"), "lora", "trust_remote_code", "never run"),
        (section("ModelConfig", "torch_dtype: int4"), "lora", "torch_dtype", "must be one of bfloat16"),
        (section("LoraConfig", "use_dora: true"), "lora", "use_dora", "no server can load DoRA"),
        (section("LoraConfig", "bias: all"), "lora", "LoraConfig.bias", "must be none"),
        (section("LoraConfig", "init_lora_weights: corda"), "lora", "init_lora_weights", "changes the base model"),
        (section("LoraConfig", "init_lora_weights: pissa"), "qlora", "init_lora_weights", "choose method lora"),
        (
            section("LoraConfig", "init_lora_weights: olora, use_rslora: true, rank_pattern: {o_proj: 4}"),
            "lora",
            "init_lora_weights",
            "leave one of them out",
        ),
        (section("TrainingArguments", "early_stopping_patience: 0"), "lora", "patience", "greater than 0"),
        (section("TrainingArguments", "early_stoping_patience: 2"), "lora", "patience", "did you mean early_stopping"),
        (section("LoraConfig", "init_lora_weights: typo"), "lora", "init_lora_weights", "must be true or one of"),
        (section("LoraConfig", "modules_to_save: [lm_head]"), "lora", "modules_to_save", "no server loads"),
        (section("LoraConfig", "r: 0"), "lora", "LoraConfig.r", "greater than 0"),
        (section("DatasetConfig", "train_test_split: 1.2"), "lora", "train_test_split", "at most 1"),
        (section("QuantizationConfig", "load_in_4bit: true"), "lora", "load_in_4bit", "choose method qlora"),
        (section("QuantizationConfig", "load_in_8bit: true"), "lora", "load_in_8bit", "choose method qlora"),
        (section("QuantizationConfig", "load_in_4bit: false"), "qlora", "load_in_4bit", "choose method lora"),
        (section("QuantizationConfig", "bnb_4bit_quant_type: nf3"), "qlora", "bnb_4bit_quant_type", "nf4 or fp4"),
        ("training_config: {}\ntraining_confg: {}\n", "lora", "training_confg", "did you mean training_config?"),
        ("training_config: [1]\n", "lora", "training_config", "must be a mapping"),
        ("training_config: {a: 1, a: 2}\n", "lora", "", "written twice at line 1"),
        ("training_config: {a\n", "lora", "", "not valid YAML"),
        ("a: &a [x]\ntraining_config: *a\n", "lora", "", "the alias *a must stand for a single value"),
        ("just words", "lora", "", "must be a mapping with the key training_config"),
        ("", "full", "tuning.method", "lora or qlora, not 'full'"),
    ],
)
def test_mistakes_are_named_with_a_way_out(text: str, method: str, path: str, words: str) -> None:
    found = parse(text, method)
    assert not isinstance(found, Recipe)
    assert [problem for problem in found if problem.path.endswith(path) and words in str(problem)], [*map(str, found)]


def test_all_mistakes_come_back_together() -> None:
    found = parse(
        "training_config:\n  LoraConfig: {q: 1}\n  TrainingArguments: {w: 1}\n  DatasetConfig: {e: 1}\n", "lora"
    )
    assert not isinstance(found, Recipe)
    assert len(found) == 3


def test_refused_keys_pass_when_they_ask_for_nothing() -> None:
    found = recipe(section("TrainingArguments", "push_to_hub: false, deepspeed: null, fsdp: ''"))
    assert found.training == {}


def test_early_stopping_is_ours_and_does_not_reach_trl() -> None:
    found = recipe(section("TrainingArguments", "early_stopping_patience: 3, early_stopping_threshold: 0.01"))
    assert (found.patience, found.threshold, found.training) == (3, 0.01, {})
    assert recipe("").patience is None


def test_a_bad_file_ends_the_process_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "training_config.yaml"
    file.write_text(section("LoraConfig", "rank: 8, lora_alph: 1"))
    with pytest.raises(FatalError, match=r"LoraConfig\.rank .*; LoraConfig\.lora_alph .*lora_alpha") as caught:
        read_recipe(file, "lora")
    assert caught.value.code is ExitCode.CONFIG_INVALID
