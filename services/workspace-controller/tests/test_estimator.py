"""Node counts equal KAITO's. The table was produced by KAITO's own estimator (v0.12.0) for a context of 2048."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workspace_controller.estimator import Gpus, TooSmall, estimate_nodes
from workspace_controller.presets import GIB

# total GPU memory in GiB and GPU count: A10x1, A10x2, A100x1, A100x4, H100x1, H100x8, H200x8, L4x4
MACHINES = ((24, 1), (48, 2), (80, 1), (320, 4), (94, 1), (640, 8), (1128, 8), (96, 4))

KAITO = [
    ("phi-4", 27.31, 204800, "2,1,1,1,1,1,1,1"),
    ("phi-4-mini-instruct", 7.15, 131072, "1,1,1,1,1,1,1,1"),
    ("phi-3-mini-4k-instruct", 7.12, 393216, "1,1,1,1,1,1,1,1"),
    ("phi-3-mini-128k-instruct", 7.12, 393216, "1,1,1,1,1,1,1,1"),
    ("phi-3-medium-4k-instruct", 26.00, 204800, "2,1,1,1,1,1,1,1"),
    ("phi-3-medium-128k-instruct", 26.00, 204800, "2,1,1,1,1,1,1,1"),
    ("phi-3.5-mini-instruct", 7.12, 393216, "1,1,1,1,1,1,1,1"),
    # larger models, which exercise what the Phi family does not
    ("deepseek-r1-distill-qwen-14b", 27.51, 196608, "2,1,1,1,1,1,1,1"),
    ("qwen2.5-coder-32b-instruct", 61.03, 262144, "4,2,2,1,1,1,1,1"),
    ("gpt-oss-20b", 25.63, 49152, "2,1,1,1,1,1,1,1"),
    ("gpt-oss-120b", 121.54, 73728, "8,4,3,1,2,1,1,2"),
    ("llama-3.3-70b-instruct", 131.42, 327680, "9,5,3,1,2,1,1,2"),
    ("gemma-3-27b-it", 51.10, 507904, "4,2,1,1,1,1,1,1"),
    ("deepseek-r1-0528", 641.30, 70272, "39,20,11,3,9,2,1,10"),
    ("mistral-large-3-675b", 634.70, 70272, "39,20,11,3,9,2,1,10"),
    ("nemotron-3-super-120b", 230.25, 90112, "14,7,4,1,4,1,1,4"),
    ("gemma-4-31b-it", 58.25, 983040, "4,2,1,1,1,1,1,1"),
    ("gemma-4-26b", 48.07, 245760, "3,2,1,1,1,1,1,1"),
    ("mistral-small-4-119b", 112.63, 23040, "7,4,2,1,2,1,1,2"),
    ("qwen3.5-9b", 17.98, 131072, "2,1,1,1,1,1,1,1"),
    ("qwen3.5-122b-gptq", 73.47, 98304, "5,3,2,1,2,1,1,2"),
    ("kimi-k2.5", 554.32, 70272, "34,17,10,3,8,2,1,9"),
    ("minimax-m2.7", 214.34, 253952, "14,7,4,1,4,1,1,4"),
    ("deepseek-v4-pro", 805.34, 124928, "49,25,14,4,12,2,1,13"),
    ("nemotron-3-ultra-550b", 328.13, 110592, "20,10,6,2,5,1,1,5"),
    ("glm-5.2-fp8", 703.75, 89856, "43,22,12,3,10,2,1,11"),
]


@pytest.mark.parametrize(("name", "weights", "per_token", "counts"), KAITO, ids=[row[0] for row in KAITO])
def test_node_counts_equal_kaitos(name: str, weights: float, per_token: int, counts: str) -> None:
    found = [
        estimate_nodes(weights * GIB, per_token, Gpus(count=count, memory_bytes=total // count * GIB), 2048)
        for total, count in MACHINES
    ]
    assert found == [int(count) for count in counts.split(",")]


def test_the_shipped_v100_example_fits_on_one_node() -> None:
    assert estimate_nodes(7.12 * GIB, 393216, Gpus(count=1, memory_bytes=16 * GIB), 2048) == 1


def test_a_context_beyond_one_gpu_is_too_small_with_the_numbers() -> None:
    found = estimate_nodes(7.12 * GIB, 393216, Gpus(count=1, memory_bytes=16 * GIB), 131072)
    assert found == TooSmall(available_bytes=16 * GIB * 0.84, reserved_bytes=2.3 * GIB + 131072 * 393216)


gpus = st.builds(
    Gpus, count=st.sampled_from([1, 2, 4, 8]), memory_bytes=st.integers(16, 192).map(lambda size: size * GIB)
)


@given(st.floats(1, 900), st.floats(0, 100), gpus)
def test_more_weights_never_need_fewer_nodes(weights: float, more: float, machine: Gpus) -> None:
    small, large = (estimate_nodes(size * GIB, 100_000, machine, 2048) for size in (weights, weights + more))
    assert isinstance(small, int)
    assert isinstance(large, int)
    assert 1 <= small <= large


@given(st.integers(1, 200_000), st.integers(0, 100_000), gpus)
def test_more_context_never_needs_fewer_nodes(context: int, more: int, machine: Gpus) -> None:
    short, long = (estimate_nodes(27 * GIB, 200_000, machine, tokens) for tokens in (context, context + more))
    if isinstance(short, TooSmall):
        assert isinstance(long, TooSmall)
    elif not isinstance(long, TooSmall):
        assert short <= long
