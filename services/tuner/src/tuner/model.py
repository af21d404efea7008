"""The base model in memory: loaded, quantised, wrapped. torch and transformers are imported inside."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tuner import memory, schedule
from tuner.config.recipe import ALL_LINEAR, Recipe
from tuner.exits import ExitCode, FatalError
from tuner.schedule import Hardware
from tuner.shortage import out_of_memory

_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_PATIENCE: Final = timedelta(days=7)
"""Of processes with each other. Who dies ends the others (launch), and the supervisor ends who is silent."""
_NAMED: Final = 3
"""Weights that are named in a message."""


def context_length(folder: Path) -> int:
    """Tokens that the model can hold, by its config.json; 0 where that says nothing. Raises FatalError."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise FatalError(
            ExitCode.WEIGHTS_MISSING, f"{folder} holds no config.json: check the preset's weights image or the volume"
        ) from error
    except (OSError, ValueError) as error:
        raise FatalError(ExitCode.WEIGHTS_INVALID, f"{folder}/config.json cannot be read: {error}") from error
    length = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return length if isinstance(length, int) else 0


def hardware() -> Hardware:
    """Look at the devices of this process; where there are several processes, join them and take one device each."""
    import torch
    from accelerate import PartialState

    cuda = bool(torch.cuda.is_available())
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        # While the first process reads the data, the others wait longer than a collective operation usually may.
        PartialState(cpu=not cuda, timeout=_PATIENCE)
    # V100 and T4 emulate bfloat16 in software, slower than float32: what counts is the compute capability.
    bf16 = torch.cuda.get_device_capability()[0] >= 8 if cuda else bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return Hardware(cuda=cuda, bf16=bf16, processes=processes)


def first_process_first(found: Hardware) -> AbstractContextManager[None]:
    """A block that the first process of this node goes through before the others: they find its work done."""
    from accelerate import PartialState

    if found.processes == 1:
        return nullcontext()
    return PartialState().local_main_process_first()  # type: ignore[no-any-return]


def load_tokenizer(folder: Path, recipe: Recipe) -> Any:
    """Load the tokenizer, with the configured chat template and a padding token. Raises FatalError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except FatalError:  # SIGTERM
        raise
    except Exception as error:  # the Rust library raises a bare one
        words = " ".join(str(error).split())
        raise FatalError(ExitCode.WEIGHTS_INVALID, f"the tokenizer in {folder} cannot be loaded: {words}") from error
    if recipe.chat_template:
        tokenizer.chat_template = _chat_template(recipe.chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"the tokenizer in {folder} names no eos_token and no pad_token: samples could neither be padded nor end; name "
            "them in its tokenizer_config.json",
        )
    return tokenizer


def _chat_template(given: str) -> str:
    """The template itself, or the file that has it. Raises FatalError."""
    if "{" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"ModelConfig.chat_template: {given!r} is no template, and no file that has one: {error}",
        ) from error


def sharding(folder: Path, recipe: Recipe, found: Hardware, tokens: int, wanted: str) -> memory.Sharding:
    """Say how several processes hold the base. `tokens` are those of a micro-batch. Raises FatalError."""
    import torch

    if wanted == memory.Sharding.FSDP and not found.cuda:
        # accelerate would train without it, and say nothing
        raise FatalError(ExitCode.USAGE, "--sharding fsdp needs GPUs: processes on CPUs hold the whole base each")
    if found.processes == 1 or not found.cuda:
        return memory.Sharding.DDP
    if wanted != "auto":
        return memory.Sharding(wanted)
    config = json.loads((folder / "config.json").read_bytes())
    hidden, layers = int(config.get("hidden_size", 0)), int(config.get("num_hidden_layers", 0))
    numbers = sum(path.stat().st_size for path in folder.glob("*.safetensors")) // _BYTES.get(config.get("dtype"), 2)
    embedded = min(numbers, 2 * int(config.get("vocab_size", 0)) * hidden)
    # Seven linear layers with both factors each: near enough, for the adapter is a hundredth of the base.
    trained = int(recipe.lora.get("r", 0)) * 14 * hidden * layers
    found_shapes = memory.Shapes(
        linear=numbers - embedded, other=embedded, trained=trained, hidden=hidden, layers=layers
    )
    quantised = recipe.quantization
    precision = memory.Precision(
        base=_dtype(recipe, found).itemsize, bits=quantised.bits if quantised is not None else 16
    )
    device = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    parts = memory.predict(found_shapes, precision, tokens, recomputed=True)
    return memory.sharding(parts, device, found.processes)


def load_base(folder: Path, recipe: Recipe, found: Hardware, sharded: memory.Sharding = memory.Sharding.DDP) -> Any:
    """Load the frozen base, quantised where the recipe says so. Raises FatalError."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = _dtype(recipe, found)
    arguments: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "trust_remote_code": False}
    if found.cuda and sharded is memory.Sharding.DDP:
        arguments["device_map"] = {"": torch.cuda.current_device()}
    if recipe.attention:
        arguments["attn_implementation"] = recipe.attention
    if recipe.quantization is not None:
        arguments["quantization_config"] = _bits_and_bytes(recipe, dtype, sharded)
    try:
        base, found_in_files = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **arguments)
    except FatalError:  # SIGTERM
        raise
    except Exception as error:  # damaged files show themselves in errors of any kind
        if out_of_memory(error):
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        raise FatalError(ExitCode.WEIGHTS_INVALID, f"the model in {folder} cannot be loaded: {words}") from error
    _require_whole(folder, found_in_files["missing_keys"])
    keep_differentiable(base)
    return base


def _require_whole(folder: Path, missing: Collection[str]) -> None:
    """transformers draws weights that no file has at random, and only logs it. Raises FatalError."""
    if missing:
        named = ", ".join(sorted(missing)[:_NAMED])
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"the files in {folder} lack {len(missing)} weights of the model ({named}): a shard or a part of the index is "
            "missing, or they belong to another architecture; bring the weights anew",
        )


def require_embeddings(base: Any, largest: int) -> None:
    """Make sure that the model has an embedding for the `largest` token of the data. Raises FatalError."""
    rows = base.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise FatalError(
            ExitCode.WEIGHTS_INVALID,
            f"the tokenizer makes tokens up to {largest} of this data, but the model has embeddings for {rows} only: tokenizer "
            "and weights do not belong together; bring both anew",
        )


def keep_differentiable(base: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference on CPUs with AVX512-BF16.

    It does so at the first forward pass in eval mode and never undoes it; the repacked kernel has no gradient, so every
    later training step would lose the gradient through the base (bitsandbytes 0.50.2, nn/modules.py, Linear4bit.forward).
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def lora_config(recipe: Recipe, base: Any) -> Any:
    """Return PEFT's configuration; every name that the user lists must match a layer. Raises FatalError."""
    from peft import LoraConfig

    linear = linear_names(base)
    targets = recipe.lora["target_modules"]
    if targets == ALL_LINEAR:
        # PEFT would list every layer of a small model by its full path; servers and people read the short names.
        targets = linear
    elif isinstance(targets, list):
        paths = [name for name, _ in base.named_modules()]
        missing = [wanted for wanted in targets if not any(p == wanted or p.endswith(f".{wanted}") for p in paths)]
        if missing:
            raise FatalError(
                ExitCode.CONFIG_INVALID,
                f"LoraConfig.target_modules: the model has no layer {', '.join(missing)}; it has {', '.join(linear)}. "
                "Leave target_modules out for all linear layers",
            )
    try:
        return LoraConfig(**{**recipe.lora, "target_modules": targets})
    except (TypeError, ValueError) as error:
        raise FatalError(ExitCode.CONFIG_INVALID, f"LoraConfig: {error}") from error


def keep_initial(adapted: Any, folder: Path) -> None:
    """Save what the adapter starts from where that was taken out of the base: the end result is the difference to it.

    See peft's `save_pretrained(path_initial_model_for_weight_conversion=...)`: a plain LoRA of twice the rank comes out.
    """
    # Else PEFT would take the base apart once more when it loads this back.
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)


def decoder_layers(base: Any) -> list[str]:
    """Names of the classes that FSDP takes as its units: transformers notes for each model which must not be split."""
    return sorted(base._no_split_modules or ())


def linear_names(base: Any) -> list[str]:
    """Last parts of the names of all linear layers, quantised or not, but for the LM head; sorted."""
    import torch

    head = base.get_output_embeddings()
    linear = (name for name, m in base.named_modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return sorted({name.rpartition(".")[2] for name in linear})


def shapes(adapted: Any, recipe: Recipe) -> tuple[memory.Shapes, memory.Precision]:
    """What a prediction of memory needs to know of a base with its adapter."""
    import torch

    linear = other = trained = 0
    head = adapted.get_output_embeddings()
    in_layers = {
        parameter
        for _, m in adapted.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head
        for parameter in m.parameters()
    }
    trained_bytes, plain_bytes = 4, 2
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            trained += parameter.numel()
            trained_bytes = parameter.element_size()
        elif parameter in in_layers:
            state = getattr(parameter, "quant_state", None)
            linear += state.shape.numel() if state is not None else parameter.numel()
        else:
            other += parameter.numel()
            plain_bytes = parameter.element_size()
    config, wanted = adapted.config, recipe.quantization
    found = memory.Shapes(
        linear=linear, other=other, trained=trained, hidden=config.hidden_size, layers=config.num_hidden_layers
    )
    precision = memory.Precision(
        base=plain_bytes,
        trained=trained_bytes,
        bits=wanted.bits if wanted is not None else 16,
        double=wanted is None or wanted.double,
        optimizer=2 * trained_bytes,
    )
    return found, precision


def held_bytes(trainer: Any) -> int:
    """What base, adapter, gradients and optimizer of a trainer hold, counted tensor by tensor, each once."""
    tensors = list(trainer.model.parameters())
    for parameter in trainer.model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, *([state.state2.absmax] if state.nested else [])]
        if parameter.requires_grad:
            tensors.append(parameter)  # its gradient, dropped after each step, has the same size
    for entry in trainer.optimizer.state.values():
        tensors += [value for value in entry.values() if getattr(value, "ndim", 0) > 0]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _dtype(recipe: Recipe, found: Hardware) -> Any:
    import torch

    return getattr(torch, schedule.precision(recipe, found))


def _bits_and_bytes(recipe: Recipe, dtype: Any, sharded: memory.Sharding) -> Any:
    from transformers import BitsAndBytesConfig

    wanted = recipe.quantization
    assert wanted is not None
    skip = list(wanted.skip_modules) or None
    if wanted.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=wanted.threshold, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=wanted.kind,
        bnb_4bit_use_double_quant=wanted.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if sharded is memory.Sharding.FSDP else None,
        llm_int8_skip_modules=skip,
    )
