"""Which floating point type the engine computes in: the planner's bound, resolved against the real device. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from model_server.exits import ExitCode, FatalError

BFLOAT16_CAPABILITY: Final = (8, 0)
"""First CUDA compute capability with bfloat16 arithmetic (Ampere)."""
_ALIASES: Final = {"half": "float16", "float": "float32", "auto": "", "": ""}
_KNOWN: Final = frozenset({"bfloat16", "float16", "float32"})


class Bound(StrEnum):
    """What the planner allows at most: the type that every GPU of the planned kind can compute in."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The device that the engine will run on, as found in the pod."""

    kind: str
    """"cuda" or "cpu"."""
    name: str = ""
    capability: tuple[int, int] | None = None
    """CUDA compute capability; None on a CPU."""
    architectures: tuple[str, ...] = ()
    """Kernels that the installed torch carries: sm_90, compute_90, ..."""


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """The type to pass to vLLM, and what is worth a line in the log."""

    name: str
    notes: tuple[str, ...] = ()


def resolve(bound: Bound, requested: str, device: Device, weights_dtype: str) -> Resolved:
    """Return the type to start with.

    `requested` is what the arguments or the user's file say ("" and "auto": nothing). `weights_dtype` is the type in
    the model's config.json, "" if unknown. A request that the device cannot serve raises FatalError(CONFIG_INVALID).
    """
    wanted = _ALIASES.get(requested, requested)
    if wanted and wanted not in _KNOWN:
        raise FatalError(
            ExitCode.CONFIG_INVALID, f"dtype {requested} is unknown; use auto, bfloat16, float16 or float32"
        )
    bfloat16 = _has_bfloat16(device)
    if wanted == "bfloat16" and not bfloat16:
        raise FatalError(
            ExitCode.CONFIG_INVALID,
            f"dtype bfloat16 needs compute capability 8.0, but {_describe(device)}; set dtype: float16 or auto",
        )
    if wanted:
        return Resolved(name=wanted)
    if device.kind == "cpu":
        # vLLM computes in bfloat16 on every x86 CPU; float16 there is slower and overflows sooner.
        return Resolved(name="float32" if weights_dtype == "float32" else "bfloat16")
    if bound is Bound.FLOAT16 or weights_dtype == "float16":
        return Resolved(name="float16")
    if not bfloat16:
        return Resolved(name="float16", notes=(f"dtype float16 instead of bfloat16: {_describe(device)}",))
    return Resolved(name="bfloat16")


def missing_kernels(device: Device) -> str:
    """Return why the installed torch cannot run on `device`, or "" if it can.

    Binary kernels run on the same major capability from their minor upwards; PTX (compute_XY) on every later one.
    """
    if device.kind != "cuda" or device.capability is None:
        return ""
    if any(_runs(architecture, device.capability) for architecture in device.architectures):
        return ""
    return (
        f"{_describe(device)}, and this image's torch has kernels for {', '.join(device.architectures) or 'no GPU'} only. "
        "Use an instance type with a newer GPU, or the engine image built for this one"
    )


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    kind, _, digits = architecture.partition("_")
    digits = digits.rstrip("abcdefghijklmnopqrstuvwxyz")
    if not digits.isdigit():
        return False
    built = int(digits[:-1] or 0), int(digits[-1])
    if kind == "compute":
        return built <= capability
    return kind == "sm" and built[0] == capability[0] and built[1] <= capability[1]


def _has_bfloat16(device: Device) -> bool:
    return device.capability is None or device.capability >= BFLOAT16_CAPABILITY


def _describe(device: Device) -> str:
    if device.capability is None:
        return f"the device is {device.name or device.kind}"
    major, minor = device.capability
    return f"the GPU is {device.name or 'unknown'} with {major}.{minor}"
