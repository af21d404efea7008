"""The linear layers of a base model, computed from its config.json: what a LoRA adapter for it must fit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

Shape: TypeAlias = tuple[int, int]
"""(in, out) of a linear layer, or (rows, columns) of a matrix."""

_FUSED = frozenset({"Phi3ForCausalLM"})
_SPLIT = frozenset(
    {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
    }
)


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """The model that an adapter is to be put on. Sizes are those of its config.json; 0 means unknown."""

    name: str
    """Name of the preset, or the repository's last part."""
    architecture: str
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    vocabulary: int = 0


def base_from_config(name: str, config: Mapping[str, Any]) -> Base:
    """The facts about a base from its config.json (Hugging Face format); what is not there or no number stays 0."""

    def number(key: str) -> int:
        value = config.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

    architectures = config.get("architectures")
    heads, hidden = number("num_attention_heads"), number("hidden_size")
    return Base(
        name=name,
        architecture=architectures[0] if isinstance(architectures, list) and architectures else "",
        layers=number("num_hidden_layers"),
        hidden=hidden,
        intermediate=number("intermediate_size"),
        heads=heads,
        kv_heads=number("num_key_value_heads") or heads,
        head_dim=number("head_dim") or (hidden // heads if heads else 0),
        vocabulary=number("vocab_size"),
    )


def base_shapes(base: Base) -> dict[str, Shape] | None:
    """Module name -> (in, out) for the modules that LoRA can wrap; None where the architecture or its sizes are not known."""
    sizes = (base.layers, base.hidden, base.intermediate, base.heads, base.kv_heads, base.head_dim)
    if 0 in sizes:
        return None
    query, key_value = base.heads * base.head_dim, base.kv_heads * base.head_dim
    shapes = {
        "o_proj": (query, base.hidden),
        "down_proj": (base.intermediate, base.hidden),
    }
    if base.vocabulary:
        shapes |= {"lm_head": (base.hidden, base.vocabulary), "embed_tokens": (base.vocabulary, base.hidden)}
    if base.architecture in _FUSED:
        # vLLM keeps Phi-3's own fused projections: split names cannot be loaded on them.
        return shapes | {
            "qkv_proj": (base.hidden, query + 2 * key_value),
            "gate_up_proj": (base.hidden, 2 * base.intermediate),
        }
    if base.architecture in _SPLIT:
        return shapes | {
            "q_proj": (base.hidden, query),
            "k_proj": (base.hidden, key_value),
            "v_proj": (base.hidden, key_value),
            "gate_proj": (base.hidden, base.intermediate),
            "up_proj": (base.hidden, base.intermediate),
        }
    return None
