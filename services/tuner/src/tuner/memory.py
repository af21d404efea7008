"""How much memory training takes, part by part, from shapes alone; and how several GPUs share it. Pure.

The parts that the model itself makes are exact: base, adapter, gradients, optimizer. Activations are an estimate for one
micro-batch (Korthikanti et al. 2022, section 4, with recomputation as the trainer uses it), and what CUDA keeps besides is a
constant. What was never measured here is said in docs/tuning.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

NF4_BLOCK: Final = 64
"""Weights that share one scale (bitsandbytes' blocksize)."""
NESTED_BLOCK: Final = 256
"""Scales that share one scale, with double quantisation."""
CUDA_BYTES: Final = 1 << 30
"""Context, libraries and workspaces of one GPU."""
FRAGMENTATION: Final = 1.1
_LAYER_BYTES: Final = 34
"""Bytes of activations for each token and hidden number within a layer, in 16 bits, attention itself recomputed."""


class Shapes(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a model with its adapter."""

    linear: int
    """Numbers in the layers that quantisation reaches."""
    other: int
    """All others of the base: embeddings, LM head, norms."""
    trained: int
    """Of the adapter."""
    hidden: int
    layers: int


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a number."""

    base: int
    """Of the unquantised base: 2, or 4 for float32."""
    trained: int = 4
    """Of the adapter and its gradients; PEFT trains in float32 beside a 16-bit base."""
    bits: int = 16
    """Of the quantised layers: 4 or 8; 16 for none."""
    double: bool = True
    optimizer: int = 8
    """Both of AdamW's moments for one number."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def model(self) -> int:
        """What the model itself takes: exact."""
        return self.base + self.adapter + self.gradients + self.optimizer

    @property
    def whole(self) -> int:
        """Everything in one process, without what CUDA keeps."""
        return self.model + self.activations


class Sharding(StrEnum):
    """How several GPUs hold the base."""

    DDP = "ddp"
    """Each the whole of it."""
    FSDP = "fsdp"
    """Each a part, gathered layer by layer."""


def predict(shapes: Shapes, precision: Precision, tokens: int, *, recomputed: bool) -> Parts:
    """Predict one process that holds everything; `tokens` are those of one micro-batch, padding included."""
    layer = _LAYER_BYTES * precision.base // 2 * tokens * shapes.hidden
    kept = 2 * precision.base // 2 * tokens * shapes.hidden * shapes.layers
    return Parts(
        base=base_bytes(shapes, precision),
        adapter=shapes.trained * precision.trained,
        gradients=shapes.trained * precision.trained,
        optimizer=shapes.trained * precision.optimizer,
        activations=kept + layer if recomputed else layer * shapes.layers,
    )


def base_bytes(shapes: Shapes, precision: Precision) -> int:
    """The frozen base: packed numbers and their scales where it is quantised."""
    rest = shapes.other * precision.base
    if precision.bits == 16:
        return rest + shapes.linear * precision.base
    if precision.bits == 8:
        return rest + shapes.linear
    scales = -(-shapes.linear // NF4_BLOCK)
    scale_bytes = scales + 4 * -(-scales // NESTED_BLOCK) if precision.double else 4 * scales
    return rest + shapes.linear // 2 + scale_bytes


def sharding(parts: Parts, device: int, processes: int) -> Sharding:
    """DDP where one GPU of `device` bytes holds everything, for it moves least; else FSDP."""
    needed = FRAGMENTATION * parts.whole + CUDA_BYTES
    return Sharding.DDP if processes == 1 or needed <= device else Sharding.FSDP


def fsdp_arguments(layer_classes: list[str], *, quantised: bool) -> dict[str, Any]:
    """trl.SFTConfig's arguments for FSDP 2: each decoder layer is a unit, gathered when it computes and dropped after.

    A quantised base must be stored as numbers of the compute type (bnb_4bit_quant_storage): FSDP shards only such tensors. Each
    process loads the checkpoint into the memory of the machine; only the first one keeps it, and sends the others their parts.
    """
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": layer_classes,
            "reshard_after_forward": True,
            "cpu_ram_efficient_loading": not quantised,
            "state_dict_type": "FULL_STATE_DICT",
            "activation_checkpointing": True,
        },
        # Recomputation is FSDP's own here; the trainer's would gather each layer twice.
        "gradient_checkpointing": False,
    }
