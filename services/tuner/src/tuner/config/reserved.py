"""Values that training_config.yaml may not set, and why: the tuner decides them, or the result could not be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

TRAINING: Final = {
    "push_to_hub": "the adapter goes to tuning.output; there is no way to a hub from the pod",
    "hub_token": "secrets do not belong into a ConfigMap, and nothing is pushed to a hub",
    "deepspeed": "several GPUs are planned by the workspace controller (DDP or FSDP)",
    "fsdp": "several GPUs are planned by the workspace controller (DDP or FSDP)",
    "fsdp_config": "several GPUs are planned by the workspace controller (DDP or FSDP)",
    "parallelism_config": "several GPUs are planned by the workspace controller (DDP or FSDP)",
    "accelerator_config": "several GPUs are planned by the workspace controller (DDP or FSDP)",
    "resume_from_checkpoint": "training goes on from the last whole checkpoint by itself",
    "local_rank": "the launcher sets it",
    "model_init_kwargs": "use ModelConfig",
    "dataset_kwargs": "use DatasetConfig",
    "trust_remote_code": "code from a model folder is never run",
    "chat_template_path": "use ModelConfig.chat_template",
    "use_liger_kernel": "its kernels are not in the image, and trl fuses the LM head by itself",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed",
    "auto_find_batch_size": "the micro-batch is halved by itself when memory runs out, with the same effective batch",
    "enable_jit_checkpoint": "a checkpoint is written on SIGTERM by itself",
}
"""Keys of TrainingArguments that are refused when they ask for something (false, null and empty pass)."""

INERT: Final = {
    "output_dir": "the output folder is set by the Workspace",
    "disable_tqdm": "progress goes to the status",
    "report_to": "loss and speed go to the status and to the training report",
    "save_strategy": "checkpoints are always kept, by steps, until the adapter is finished",
    "logging_nan_inf_filter": "a loss that is not a number always stops the training",
    "logging_strategy": "every step is reported",
    "logging_steps": "every step is reported",
    "do_train": "the tuner only trains",
    "do_eval": "whether there is an evaluation follows from DatasetConfig.train_test_split",
    "do_predict": "the tuner only trains",
    "remove_unused_columns": "the tuner feeds tokens, not columns",
    "dataset_text_field": "use DatasetConfig.text_column",
    "dataset_num_proc": "rows are read once, in a stream",
    "skip_memory_metrics": "peak memory is always reported",
    "hub_strategy": "nothing is pushed to a hub",
    "hub_model_id": "nothing is pushed to a hub",
    "hub_revision": "nothing is pushed to a hub",
    "hub_private_repo": "nothing is pushed to a hub",
    "hub_always_push": "nothing is pushed to a hub",
    "trackio_space_id": "nothing is sent to a tracker",
    "trackio_bucket_id": "nothing is sent to a tracker",
    "trackio_static_space_id": "nothing is sent to a tracker",
    "project": "nothing is sent to a tracker",
    "run_name": "nothing is sent to a tracker",
    "pad_token": "the model's own padding token is used",
    "shuffle_dataset": "use DatasetConfig.shuffle_dataset",
    "packing_strategy": "samples are never cut to fill a row",
    "padding_free": "use packing",
    "eval_packing": "the evaluation packs as the training does",
    "label_names": "the tuner labels the tokens",
    "length_column_name": "the tuner measures the samples",
    "completion_only_loss": "use assistant_only_loss: a prompt with its completion is an exchange of two turns",
}
"""Keys of TrainingArguments that are accepted without effect, so that KAITO's files keep working."""

MODEL_INERT: Final = dict.fromkeys(
    (
        "pretrained_model_name_or_path",
        "state_dict",
        "cache_dir",
        "from_tf",
        "force_download",
        "resume_download",
        "proxies",
        "output_loading_info",
        "allow_remote_files",
        "local_files_only",
        "revision",
        "m_revision",
    ),
    "the base model comes from the preset",
) | {
    "device_map": "every process owns one device",
    "load_in_4bit": "use QuantizationConfig",
    "load_in_8bit": "use QuantizationConfig",
}

LORA: Final = {
    "use_dora": "no server can load DoRA; take use_rslora or a higher r instead",
    "lora_bias": "no server can load biases of LoRA layers",
    "modules_to_save": "the adapter would carry whole layers, which no server loads",
    "trainable_token_indices": "no server can load changed token embeddings from an adapter",
    "layer_replication": "it changes the base model",
    "use_qalora": "its adapters do not fit the unquantised base model",
    "use_bdlora": "no server can load its adapters",
    "alora_invocation_tokens": "no server can load its adapters",
    "velora_config": "no server can load its adapters",
    "monteclora_config": "no server can load its adapters",
    "arrow_config": "no server can load its adapters",
    "kasa_config": "no server can load its adapters",
    "megatron_config": "Megatron is not in the image",
    "loftq_config": "it changes the base model that the adapter is served on",
    "corda_config": "it changes the base model that the adapter is served on",
    "target_parameters": "no server can load adapters on bare parameters",
}
"""Keys of LoraConfig that are refused when they ask for something."""

LORA_INERT: Final = {
    "task_type": "it is always CAUSAL_LM",
    "peft_type": "it is always LORA",
    "peft_version": "the version is the installed one",
    "base_model_name_or_path": "the base model comes from the preset",
    "revision": "the base model comes from the preset",
    "inference_mode": "an adapter is trained here",
    "auto_mapping": "the base model comes from the preset",
    "megatron_core": "Megatron is not in the image",
    "runtime_config": "it holds for the process only",
    "fan_in_fan_out": "PEFT finds it out by itself",
}
_CONVERTED: Final = ("pissa", "olora")
"""Initialisations that change the base, and whose adapters are converted at the end so that they fit the unchanged one."""
_MUTATING: Final = ("corda", "loftq", "lora_ga")
_SUPPORTED_INITS: Final = ("gaussian", "orthogonal", "mica")


def converted(init: object) -> bool:
    """Whether an adapter of this initialisation must be converted to be served on the unchanged base."""
    return isinstance(init, str) and init.startswith(_CONVERTED)


def lora_refusals(section: Mapping[str, Any], method: str) -> list[tuple[str, str]]:
    """Return (key, why) for each value of LoraConfig whose adapter could not be made or served."""
    found = [(name, why) for name, why in LORA.items() if section.get(name)]
    if section.get("bias") not in (None, "none"):
        found.append(("bias", "must be none: no server can load biases"))
    init = section.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in ("true", "false"):
        found += [("init_lora_weights", why) for why in _init_refusals(section, init, method)]
    return found


def _init_refusals(section: Mapping[str, Any], init: str, method: str) -> list[str]:
    if init.startswith(_MUTATING):
        return [f"{init} changes the base model that the adapter is served on; use true"]
    if not init.startswith(_CONVERTED):
        known = (*_SUPPORTED_INITS, *_CONVERTED)
        return [] if init in _SUPPORTED_INITS else [f"must be true or one of {', '.join(known)}, not {init}"]
    if method == "qlora":
        return [f"{init} takes the base's weights apart, which a quantised base does not allow: choose method lora"]
    if section.get("use_rslora") and (section.get("rank_pattern") or section.get("alpha_pattern")):
        return [f"{init} cannot be converted for serving with use_rslora and patterns together: leave one of them out"]
    return []
