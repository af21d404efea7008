"""The least memory of one GPU that a model needs to be trained at all. Each GPU holds a whole copy (DDP).

A lower bound, so that nothing is refused that would run: one short sample at a time. What the run really takes depends on the
data, and the tuner comes down by itself to fewer samples at a time when memory runs out. Not measured on a GPU.
"""

from __future__ import annotations

from typing import Final

from kaito_api.workspace import TuningMethod
from workspace_controller.catalog import Catalog
from workspace_controller.engines import choose_engine
from workspace_controller.presets import GIB, Preset, Shape
from workspace_controller.skus import Sku

_NF4_BYTES: Final = 0.516
"""Of one weight: 4 bits, and its share of the double-quantised scales."""
_RANK: Final = 16
_TRAINED_BYTES: Final = 16
"""Of one trained number: itself, its gradient and two moments, 32 bits each."""
_TOKENS: Final = 512
_OVERHEAD: Final = int(1.5 * GIB)
"""CUDA context, kernels, the largest temporary."""


def least_bytes(preset: Preset, method: str) -> int:
    """Return the bytes that training `preset` takes on each GPU with one sample of a few hundred tokens."""
    shape = preset.shape
    linear = _linear_weights(shape)
    other = max(0, preset.weights_bytes - 2 * linear)
    base = linear * _NF4_BYTES if method == TuningMethod.QLORA else 2 * linear
    activations = 2 * _TOKENS * (shape.layers * shape.hidden_size + 6 * shape.intermediate_size)
    return int(base + other + _adapter_weights(shape) * _TRAINED_BYTES + activations + _OVERHEAD)


def trains_on(sku: Sku, catalog: Catalog) -> bool:
    """Whether there is a tuner for that machine's GPUs."""
    engine = choose_engine(catalog.engines, sku.capability, "")
    return engine is not None and bool(engine.tuner_image)


def _linear_weights(shape: Shape) -> int:
    attention = shape.attention_heads * shape.head_dim
    key_value = 2 * shape.kv_heads * shape.head_dim
    per_layer = shape.hidden_size * (2 * attention + key_value + 3 * shape.intermediate_size)
    return shape.layers * per_layer


def _adapter_weights(shape: Shape) -> int:
    attention = shape.attention_heads * shape.head_dim
    key_value = 2 * shape.kv_heads * shape.head_dim
    ends = 4 * shape.hidden_size + 2 * attention + key_value + 3 * shape.intermediate_size
    return _RANK * shape.layers * ends
