"""How the model is spread over GPUs: KAITO's choice where the engine accepts it, else the nearest one that it does."""

from __future__ import annotations

import msgspec

from workspace_controller.estimator import Gpus
from workspace_controller.presets import Preset, Shape


class Parallelism(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the three groups; their product is the number of GPUs in use."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1


def heads_divide(shape: Shape, tensor: int) -> bool:
    """Whether vLLM can split the attention of `shape` over `tensor` GPUs.

    Query heads must divide; key-value heads must divide or be copied evenly. A latent cache is copied as it is.
    """
    if shape.attention_heads % tensor:
        return False
    if shape.kv_lora_rank:
        return True
    return shape.kv_heads % tensor == 0 or tensor % shape.kv_heads == 0


def choose_parallelism(preset: Preset, gpus: Gpus, nodes: int) -> Parallelism | None:
    """Return how to spread `preset` over `nodes` nodes with `gpus`, or None where its layers are too few.

    On one node whose GPUs each hold the model twice over, every GPU serves a copy (data parallel). Otherwise tensor
    parallel within a node and pipeline parallel between nodes; where the heads do not divide by the node's GPUs, the
    largest divisor that works, and pipeline stages for the rest.
    """
    if nodes == 1 and gpus.count > 1 and preset.weights_bytes * 2 < gpus.memory_bytes:
        return Parallelism(data=gpus.count)
    tensor = max(size for size in _divisors(gpus.count) if heads_divide(preset.shape, size))
    pipeline = gpus.count // tensor * nodes
    if pipeline > preset.shape.layers:
        return None
    return Parallelism(tensor=tensor, pipeline=pipeline)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
