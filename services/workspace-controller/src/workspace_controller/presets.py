"""Presets: the models of the catalog (presets/models/*.yaml). The numbers are facts of the published weights."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

GIB: Final = 1024**3

Positive = Annotated[int, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]


class WeightsImage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where an OCI registry keeps the weights, relative to the setting `--preset-registry`."""

    repository: Annotated[str, msgspec.Meta(min_length=1)]
    tag: Annotated[str, msgspec.Meta(min_length=1)]
    path: str = ""
    """Folder inside the image's file system; "" for a raw artifact whose layers are the files."""


class HuggingFace(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The published repository, pinned."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$")]


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The parts of the model's config.json that decide memory and parallelism."""

    layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    attention_heads: Positive
    kv_heads: Positive
    head_dim: Positive
    kv_lora_rank: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Above 0 for multi-head latent attention, which caches one compressed vector for all heads."""
    qk_rope_head_dim: Annotated[int, msgspec.Meta(ge=0)] = 0

    def kv_bytes_per_token(self, *, tensor: int = 1, pipeline: int = 1) -> int:
        """Bytes of 16-bit cache of one token on one of `tensor` x `pipeline` GPUs.

        Heads that do not divide are replicated, and so is a latent vector.
        """
        layers = -(-self.layers // pipeline)
        if self.kv_lora_rank:
            return (self.kv_lora_rank + self.qk_rope_head_dim) * layers * 2
        return 2 * -(-self.kv_heads // tensor) * self.head_dim * layers * 2


class Tuning(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """How the model is tuned."""

    methods: Annotated[tuple[Literal["lora", "qlora"], ...], msgspec.Meta(min_length=1)]
    disk_gib: Positive = msgspec.field(name="diskGiB")
    """Disk of the node for weights, data, checkpoints and images."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a turn: data must end with one of them, or the model learns not to stop."""


class Preset(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One model of the catalog."""

    name: Name
    aliases: tuple[str, ...] = ()
    hugging_face: HuggingFace
    image: WeightsImage
    license: str
    architecture: Annotated[str, msgspec.Meta(min_length=1)]
    """architectures[0] of config.json; the server refuses other weights."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """What the weights were published in."""
    weights_gib: Annotated[float, msgspec.Meta(gt=0)] = msgspec.field(name="weightsGiB")
    context_length: Positive
    shape: Shape
    chat_template: Literal["tokenizer"] = "tokenizer"
    """The template that comes with the weights."""
    lora: bool
    """Whether the engine can serve LoRA adapters for it."""
    lora_target_modules: tuple[str, ...] = ()
    """Modules that an adapter may change, as the checkpoint names them."""
    tuning: Tuning | None = None
    """None where the model cannot be tuned."""
    engine_args: dict[str, str | int | float | bool] = {}
    """vLLM arguments that this model needs, by flag name without the dashes."""

    @property
    def names(self) -> frozenset[str]:
        """Everything by which a user may call this preset, in lower case."""
        return frozenset(name.lower() for name in (self.name, self.hugging_face.id, *self.aliases))

    @property
    def weights_bytes(self) -> int:
        """Size of the weight files."""
        return int(self.weights_gib * GIB)

    @property
    def disk_gib(self) -> int:
        """Disk that a node needs for this model, system and images included (KAITO: weights + 80 GiB, floored)."""
        return int(self.weights_gib + 80)
