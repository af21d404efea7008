from __future__ import annotations

import pytest

from tuner.memory import CUDA_BYTES, Parts, Precision, Shapes, Sharding, base_bytes, fsdp_arguments, predict, sharding

# Phi-3-mini: 3.82e9 numbers, of which 2 x 32064 x 3072 are in embeddings and LM head (its config.json).
PHI = Shapes(linear=3_623_878_656, other=197_197_824, trained=25_165_824, hidden=3072, layers=32)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (Precision(base=2), 2 * (PHI.linear + PHI.other)),
        (Precision(base=4), 4 * (PHI.linear + PHI.other)),
        (Precision(base=2, bits=8), PHI.linear + 2 * PHI.other),
        # half a byte, and 1/64 for the scale; 4 bytes for each 256 scales
        (Precision(base=2, bits=4), PHI.linear // 2 + PHI.linear // 64 + PHI.linear // 64 // 64 + 2 * PHI.other),
        (Precision(base=2, bits=4, double=False), PHI.linear // 2 + PHI.linear // 16 + 2 * PHI.other),
    ],
)
def test_the_base_takes_what_its_numbers_take(precision: Precision, expected: int) -> None:
    assert base_bytes(PHI, precision) == expected


def test_more_tokens_and_no_recomputation_take_more() -> None:
    few = predict(PHI, Precision(base=2, bits=4), 1024, recomputed=True)
    many = predict(PHI, Precision(base=2, bits=4), 4096, recomputed=True)
    kept = predict(PHI, Precision(base=2, bits=4), 4096, recomputed=False)
    assert few.model == many.model == kept.model == few.base + 16 * PHI.trained
    assert few.activations < many.activations < kept.activations


@pytest.mark.parametrize(
    ("base", "processes", "expected"),
    [(1 << 33, 2, Sharding.DDP), (1 << 35, 2, Sharding.FSDP), (1 << 35, 1, Sharding.DDP)],
)
def test_gpus_share_the_base_where_one_cannot_hold_it(base: int, processes: int, expected: Sharding) -> None:
    parts = Parts(base=base, adapter=0, gradients=0, optimizer=0, activations=0)
    assert sharding(parts, (1 << 34) + CUDA_BYTES, processes) is expected


def test_fsdp_wraps_the_decoder_layers_once() -> None:
    made = fsdp_arguments(["Phi3DecoderLayer"], quantised=True)
    assert made["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["Phi3DecoderLayer"]
    assert made["fsdp_config"]["activation_checkpointing"]
    assert not made["gradient_checkpointing"]
    assert not made["fsdp_config"]["cpu_ram_efficient_loading"]
    assert fsdp_arguments([], quantised=False)["fsdp_config"]["cpu_ram_efficient_loading"]
