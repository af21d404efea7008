"""KAITO's node estimator, number for number, so that a manifest gets the same node count here as there.

Source: KAITO v0.12.0, the estimator for one replica. What it leaves out (heads that do not divide, adapter slots, the
context that really fits) is in parallelism.py and memory.py and never changes the node count.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from workspace_controller.presets import GIB
from workspace_controller.skus import ComputeCapability

MEMORY_UTILISATION: Final = 0.84
WEIGHT_EXPANSION: Final = 1.02
OVERHEAD_BYTES: Final = 2.3 * GIB
"""Activations, CUDA context and graphs of one GPU."""
WEIGHT_OVERHEAD: Final = 1.05
DEFAULT_CONTEXT: Final = 2048
"""Tokens of context that must fit when the user names none."""


class Gpus(msgspec.Struct, frozen=True, kw_only=True):
    """The GPUs of one node."""

    model: str = ""
    count: int
    memory_bytes: int = 0
    """Memory of one GPU; 0 where it is not known."""
    capability: ComputeCapability | None = None


class TooSmall(msgspec.Struct, frozen=True, kw_only=True):
    """No number of these GPUs can hold the model: what one GPU offers, and what the fixed costs and the context take."""

    available_bytes: float
    reserved_bytes: float


def estimate_nodes(weights_bytes: float, kv_bytes_per_token: int, gpus: Gpus, context: int) -> int | TooSmall:
    """Return how many nodes hold the model and `context` tokens of cache. `gpus.memory_bytes` must be known."""
    available = gpus.memory_bytes * MEMORY_UTILISATION
    reserved = OVERHEAD_BYTES + context * kv_bytes_per_token / gpus.count
    if available <= reserved:
        return TooSmall(available_bytes=available, reserved_bytes=reserved)
    for_weights = (available - reserved) / WEIGHT_OVERHEAD
    gpus_needed = int(weights_bytes * WEIGHT_EXPANSION / for_weights) + 1
    return max(1, math.ceil(gpus_needed / gpus.count))
