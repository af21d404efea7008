"""Does this model, on this machine, keep samples apart that share a row? Asked before packing is used.

Two questions. Does a sample see its neighbour: its logits must not change when the neighbour does (same shapes, same
kernels, so nothing but attention across the border can change them). Are its positions right: its logits must be those of
the sample alone, within the noise of the floating point type.
"""

from __future__ import annotations

from typing import Any, Final

LEAK_TOLERANCE: Final = 1e-3
"""Largest change of a logit, in standard deviations of the logits, when the neighbour is replaced."""
ALONE_TOLERANCE: Final = 0.05
"""Largest mean difference from the sample alone, in standard deviations; bfloat16's noise is about 0.01."""
_LENGTH: Final = 16


def packed_equals_single(model: Any) -> bool:
    """Run the three small forward passes. The model's mode is restored."""
    import torch

    device = model.get_input_embeddings().weight.device
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(7)
    one, other, sample = (torch.randint(0, vocabulary, (_LENGTH,), generator=generator) for _ in range(3))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            beside_one = _last(model, torch.cat([one, sample]), 2, device)
            beside_other = _last(model, torch.cat([other, sample]), 2, device)
            alone = _last(model, sample, 1, device)
    finally:
        model.train(training)
    spread = alone.std().item()
    leak = (beside_one - beside_other).abs().max().item()
    offset = (beside_one - alone).abs().mean().item()
    return bool(spread > 0 and leak <= LEAK_TOLERANCE * spread and offset <= ALONE_TOLERANCE * spread)


def _last(model: Any, ids: Any, samples: int, device: Any) -> Any:
    """The logits of the last sample of a row of equally long ones, fed as the collator feeds a packed batch."""
    import torch

    positions = torch.arange(_LENGTH).repeat(samples)
    starts = torch.arange(0, _LENGTH * samples + 1, _LENGTH, dtype=torch.int32, device=device)
    out = model(
        input_ids=ids[None].to(device),
        position_ids=positions[None].to(device),
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=_LENGTH,
        max_length_k=_LENGTH,
        use_cache=False,
    )
    return out.logits[0, -_LENGTH:].float()
