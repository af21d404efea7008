"""Where the memory of one GPU goes: weights, overhead, adapter slots, and what is left for the KV cache."""

from __future__ import annotations

from typing import Final

import msgspec

from workspace_controller.estimator import (
    MEMORY_UTILISATION,
    OVERHEAD_BYTES,
    WEIGHT_EXPANSION,
    WEIGHT_OVERHEAD,
    Gpus,
)
from workspace_controller.parallelism import Parallelism
from workspace_controller.presets import Preset, Shape
from workspace_controller.settings import LORA_RANKS, LoraDefaults

_A10_UTILISATION: Final = 0.82
_LORA_MARGIN: Final = 1.15
"""vLLM's real slots are up to a fifth larger than the sum of their matrices (measured on Llama-3.1-8B)."""
_LEAST_RANK: Final = 8
_BYTES: Final = 2


class Lora(msgspec.Struct, frozen=True, kw_only=True):
    """Adapter support that the engine starts with; `slots` 0 means none."""

    slots: int = 0
    rank: int = 0


class MemoryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one GPU. `kv_cache` may be negative: then the model does not fit."""

    usable: int
    weights: int
    overhead: int
    adapters: int
    kv_cache: int
    kv_tokens: int
    """Tokens that the cache holds, over all sequences."""


def memory_utilisation(gpus: Gpus) -> float:
    """Return the share of a GPU's memory that the engine may take (an A10 keeps a little more back, as in KAITO)."""
    return _A10_UTILISATION if gpus.model.removeprefix("NVIDIA").strip(" -") == "A10" else MEMORY_UTILISATION


def lora_slot_bytes(shape: Shape, rank: int, parallelism: Parallelism) -> int:
    """Return the bytes of one adapter slot on one GPU, every linear layer wrapped.

    A matrices are whole on each GPU of a tensor-parallel group, B matrices are split.
    """
    query = shape.attention_heads * shape.head_dim
    key_value = 2 * shape.kv_heads * shape.head_dim
    inputs = shape.hidden_size + query + shape.hidden_size + shape.intermediate_size
    outputs = query + key_value + shape.hidden_size + 2 * shape.intermediate_size + shape.hidden_size
    layers = -(-shape.layers // parallelism.pipeline)
    return int(rank * layers * (inputs + outputs / parallelism.tensor) * _BYTES * _LORA_MARGIN)


def budget(preset: Preset, gpus: Gpus, parallelism: Parallelism, lora: Lora) -> MemoryBudget:
    """Return where the memory of each GPU goes."""
    usable = int(gpus.memory_bytes * memory_utilisation(gpus))
    copies = parallelism.tensor * parallelism.pipeline
    weights = int(preset.weights_bytes * WEIGHT_EXPANSION * WEIGHT_OVERHEAD / copies)
    overhead = int(OVERHEAD_BYTES)
    adapters = lora.slots * lora_slot_bytes(preset.shape, lora.rank, parallelism) if lora.slots else 0
    kv_cache = usable - weights - overhead - adapters
    per_token = preset.shape.kv_bytes_per_token(tensor=parallelism.tensor, pipeline=parallelism.pipeline)
    return MemoryBudget(
        usable=usable,
        weights=weights,
        overhead=overhead,
        adapters=adapters,
        kv_cache=kv_cache,
        kv_tokens=max(0, kv_cache // per_token),
    )


def context_that_fits(preset: Preset, kv_tokens: int) -> int:
    """Return the longest context of one request: the model's limit, or all that the cache holds."""
    return min(preset.context_length, kv_tokens)


def fit_lora(preset: Preset, gpus: Gpus, parallelism: Parallelism, wanted: LoraDefaults, context: int) -> Lora:
    """Return the most of `wanted` that leaves room for `context` tokens: first fewer slots, then smaller ranks.

    Slots are halved before the rank is touched: a slot less makes requests wait, a rank less refuses adapters.
    """
    ranks = [wanted.rank, *(rank for rank in reversed(LORA_RANKS) if _LEAST_RANK <= rank < wanted.rank)]
    for rank in ranks:
        slots = wanted.slots
        while slots:
            lora = Lora(slots=slots, rank=rank)
            if budget(preset, gpus, parallelism, lora).kv_tokens >= context:
                return lora
            slots //= 2
    return Lora()
