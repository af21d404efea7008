"""Attention over rows that samples share, sample by sample: for CPUs, which have no kernel for such rows.

One call over the whole row computes its square, and masks nearly all of that away. trl's collator says where the samples begin
(`cu_seq_lens_q`), and most models pass that on to the attention; where one does not, nothing changes.
"""

from __future__ import annotations

from typing import Any, Final

NAME: Final = "sample_by_sample"


def use(base: Any) -> bool:
    """Let a model that attends by torch's own attention do it sample by sample; return whether it does now."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if base.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.set_attn_implementation(NAME)
    return True


def leave(base: Any) -> None:
    """Go back to torch's own attention."""
    base.set_attn_implementation("sdpa")


def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """As transformers calls an attention: batch x heads x tokens x numbers in, batch x tokens x heads x numbers out."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    starts = kwargs.get("cu_seq_lens_q")
    lengths = starts.diff().tolist() if starts is not None else []
    window = kwargs.get("sliding_window") or max(lengths, default=0)
    tokens = query.shape[2]
    apart = query.shape[0] == 1 and sum(lengths) == tokens == key.shape[2] and max(lengths) <= window
    if not apart or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **kwargs)[0] for part in parts], 1), None
