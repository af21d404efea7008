"""dtype.resolve and the check of kernels against the GPU."""

from __future__ import annotations

import pytest

from model_server import device
from model_server.dtype import Bound, Device, missing_kernels, resolve
from model_server.exits import ExitCode, FatalError

TODAY = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


def gpu(major: int, minor: int, architectures: tuple[str, ...] = TODAY) -> Device:
    return Device(kind="cuda", name="GPU", capability=(major, minor), architectures=architectures)


CPU = Device(kind="cpu")


@pytest.mark.parametrize(
    ("bound", "requested", "on", "weights", "expected"),
    [
        (Bound.BFLOAT16, "", gpu(8, 0), "bfloat16", "bfloat16"),
        (Bound.BFLOAT16, "auto", gpu(9, 0), "", "bfloat16"),
        (Bound.BFLOAT16, "", gpu(7, 5), "bfloat16", "float16"),
        (Bound.FLOAT16, "", gpu(9, 0), "bfloat16", "float16"),
        (Bound.BFLOAT16, "", gpu(9, 0), "float16", "float16"),
        (Bound.FLOAT16, "bfloat16", gpu(9, 0), "bfloat16", "bfloat16"),
        (Bound.BFLOAT16, "half", gpu(7, 0), "bfloat16", "float16"),
        (Bound.BFLOAT16, "float", gpu(9, 0), "bfloat16", "float32"),
        (Bound.BFLOAT16, "", CPU, "bfloat16", "bfloat16"),
        (Bound.FLOAT16, "", CPU, "bfloat16", "bfloat16"),
        (Bound.BFLOAT16, "", CPU, "float32", "float32"),
        (Bound.BFLOAT16, "float32", CPU, "bfloat16", "float32"),
    ],
)
def test_resolve(bound: Bound, requested: str, on: Device, weights: str, expected: str) -> None:
    assert resolve(bound, requested, on, weights).name == expected


@pytest.mark.parametrize(("requested", "on"), [("bfloat16", gpu(7, 0)), ("fp8", gpu(9, 0))])
def test_resolve_refuses(requested: str, on: Device) -> None:
    with pytest.raises(FatalError) as caught:
        resolve(Bound.BFLOAT16, requested, on, "")
    assert caught.value.code is ExitCode.CONFIG_INVALID


@pytest.mark.parametrize(
    ("on", "runs"),
    [
        (gpu(7, 5), True),
        (gpu(8, 9), True),
        (gpu(9, 0), True),
        (gpu(12, 0), True),
        (gpu(7, 0), False),
        (gpu(6, 1), False),
        (gpu(11, 0), False),
        (gpu(11, 0, ("compute_90",)), True),
        (gpu(9, 0, ("sm_90a",)), True),
        (gpu(8, 0, ("sm_86",)), False),
        (gpu(8, 0, ()), False),
        (CPU, True),
    ],
)
def test_kernels(on: Device, runs: bool) -> None:
    assert (missing_kernels(on) == "") is runs


def test_a_v100_is_refused_before_weights_are_loaded() -> None:
    with pytest.raises(FatalError, match=r"7\.0.*sm_75") as caught:
        device.check(gpu(7, 0))
    assert caught.value.code is ExitCode.ENGINE_LACKS_GPU
