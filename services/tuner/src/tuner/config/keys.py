"""The keys of each section of training_config.yaml and what kind of value each takes.

TrainingArguments are the fields of trl 1.16's SFTConfig, LoraConfig those of peft 0.21, QuantizationConfig those of
transformers' BitsAndBytesConfig; a test compares the tables with the installed libraries. The tables exist so that a file
can be judged without importing torch.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """What a value must be. Numbers and booleans written as text are read: YAML 1.1 takes `2e-4` for text."""

    INTEGER = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TEXT = "text"
    MAPPING = "a mapping"
    NAMES = "text or a list of texts"
    ANY = "anything"


def _table(**kinds: str) -> dict[str, Kind]:
    return {name: Kind[kind] for kind, names in kinds.items() for name in names.split()}


MODEL: Final = _table(
    TEXT="pretrained_model_name_or_path cache_dir revision m_revision torch_dtype dtype device_map chat_template "
    "attn_implementation",
    BOOLEAN="from_tf force_download resume_download output_loading_info allow_remote_files trust_remote_code "
    "local_files_only load_in_4bit load_in_8bit",
    ANY="state_dict proxies",
)
QUANTIZATION: Final = _table(
    BOOLEAN="load_in_8bit load_in_4bit llm_int8_enable_fp32_cpu_offload llm_int8_has_fp16_weight "
    "bnb_4bit_use_double_quant",
    NUMBER="llm_int8_threshold",
    TEXT="bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_quant_storage quant_method",
    NAMES="llm_int8_skip_modules",
)
LORA: Final = _table(
    INTEGER="r lora_alpha qalora_group_size",
    NUMBER="lora_dropout",
    BOOLEAN="fan_in_fan_out use_rslora use_dora inference_mode use_qalora lora_bias ensure_weight_tying",
    TEXT="task_type peft_type peft_version base_model_name_or_path revision bias megatron_core",
    NAMES="target_modules exclude_modules modules_to_save layers_pattern target_parameters",
    MAPPING="rank_pattern alpha_pattern loftq_config eva_config corda_config lora_ga_config auto_mapping",
    ANY="init_lora_weights layers_to_transform megatron_config trainable_token_indices layer_replication "
    "runtime_config velora_config alora_invocation_tokens monteclora_config use_bdlora arrow_config kasa_config",
)
TRAINING: Final = _table(
    INTEGER="per_device_train_batch_size max_steps gradient_accumulation_steps torch_empty_cache_steps "
    "per_device_eval_batch_size eval_accumulation_steps save_total_limit seed data_seed dataloader_num_workers "
    "dataloader_prefetch_factor ddp_bucket_cap_mb ddp_timeout local_rank dataset_num_proc max_length",
    NUMBER="num_train_epochs learning_rate warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm "
    "label_smoothing_factor neftune_noise_alpha logging_steps eval_steps eval_delay save_steps router_aux_loss_coef",
    BOOLEAN="average_tokens_across_devices bf16 fp16 bf16_full_eval fp16_full_eval tf32 gradient_checkpointing "
    "torch_compile use_liger_kernel use_cache auto_find_batch_size logging_first_step log_on_each_node "
    "logging_nan_inf_filter disable_tqdm prediction_loss_only eval_on_start eval_do_concat_batches "
    "eval_use_gather_object batch_eval_metrics save_only_model save_on_each_node enable_jit_checkpoint push_to_hub "
    "hub_private_repo hub_always_push load_best_model_at_end greater_is_better ignore_data_skip "
    "restore_callback_states_from_checkpoint full_determinism use_cpu dataloader_drop_last dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_in_order remove_unused_columns ddp_find_unused_parameters "
    "ddp_broadcast_buffers ddp_static_graph skip_memory_metrics do_train do_eval do_predict trust_remote_code "
    "shuffle_dataset packing padding_free eval_packing completion_only_loss assistant_only_loss activation_offloading",
    TEXT="output_dir lr_scheduler_type optim optim_args torch_compile_backend torch_compile_mode logging_strategy "
    "log_level log_level_replica run_name project trackio_space_id trackio_bucket_id eval_strategy save_strategy "
    "hub_token hub_model_id hub_strategy hub_revision metric_for_best_model dataloader_multiprocessing_context "
    "train_sampling_strategy length_column_name ddp_backend fsdp resume_from_checkpoint chat_template_path "
    "dataset_text_field eos_token truncation_mode packing_strategy loss_type pad_token",
    MAPPING="lr_scheduler_kwargs gradient_checkpointing_kwargs liger_kernel_config accelerator_config fsdp_config "
    "model_init_kwargs dataset_kwargs",
    NAMES="optim_target_modules report_to include_for_metrics label_names debug",
    ANY="include_num_input_tokens_seen trackio_static_space_id parallelism_config deepspeed pad_to_multiple_of",
)
OWN: Final = _table(INTEGER="early_stopping_patience", NUMBER="early_stopping_threshold")
"""Keys of TrainingArguments that are ours: transformers has a callback for them, but no fields."""
DATASET: Final = _table(
    BOOLEAN="shuffle_dataset",
    INTEGER="shuffle_seed max_bad_rows max_rows",
    NUMBER="train_test_split",
    TEXT="dataset_path dataset_extension context_column response_column messages_column text_column",
)
COLLATOR: Final = _table(
    BOOLEAN="mlm whole_word_mask tf_experimental_compile",
    NUMBER="mlm_probability mask_replace_prob random_replace_prob",
    INTEGER="pad_to_multiple_of seed",
    TEXT="return_tensors tokenizer",
)

SECTIONS: Final[dict[str, dict[str, Kind]]] = {
    "ModelConfig": MODEL,
    "QuantizationConfig": QUANTIZATION,
    "LoraConfig": LORA,
    "TrainingArguments": TRAINING | OWN,
    "DataCollator": COLLATOR,
    "DatasetConfig": DATASET,
}

REMOVED: Final = {
    "max_seq_length": "is called max_length since trl 0.20",
    "tokenizer": "is gone: the tokenizer is the model's own",
    "warmup_ratio": "is gone: warmup_steps below 1 is a share of all steps, so write warmup_steps: 0.03",
    "evaluation_strategy": "is called eval_strategy",
    "overwrite_output_dir": "is gone: a finished output folder is kept, and a changed configuration trains anew",
    "group_by_length": "is called train_sampling_strategy: group_by_length; it is the default where packing is off",
    "dataset_batch_size": "is gone from trl",
    "num_of_sequences": "is gone from trl",
    "chars_per_token": "is gone from trl",
    "no_cuda": "is called use_cpu",
    "per_gpu_train_batch_size": "is called per_device_train_batch_size",
    "per_gpu_eval_batch_size": "is called per_device_eval_batch_size",
    "logging_dir": "is gone: loss and speed are in the Workspace's status and in the training report",
    "save_safetensors": "is gone: adapters are always safetensors",
    "fp16_backend": "is gone from transformers",
    "include_tokens_per_second": "is gone: tokens per second are always reported",
    "activation_checkpointing": "is still called gradient_checkpointing here",
    "use_ipex": "is gone from transformers",
}
"""Keys of TrainingArguments that older libraries knew, and what became of them."""
