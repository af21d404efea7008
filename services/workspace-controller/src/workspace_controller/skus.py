"""Machine types with GPUs (presets/skus/*.yaml)."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from workspace_controller.presets import GIB, Positive


class ComputeCapability(msgspec.Struct, frozen=True, order=True):
    """CUDA compute capability: decides which builds have kernels for a GPU."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ComputeCapability:
        """Parse "7.0". Raises ValueError."""
        major, separator, minor = text.partition(".")
        if not separator or not major.isdecimal() or not minor.isdecimal():
            raise ValueError(f"not a compute capability such as 8.0: {text!r}")
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Sku(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One machine type. Memory of the GPUs is the total of the machine, as the clouds publish it."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    gpu_model: str
    gpu_count: Positive
    gpu_memory_gib: Positive = msgspec.field(name="gpuMemoryGiB")
    compute_capability: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$")]
    cpus: Positive
    memory_gib: Positive = msgspec.field(name="memoryGiB")
    local_nvme_gib: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(name="localNVMeGiB", default=0)
    """Local NVMe disks in all; 0 for none."""
    usd_per_hour: Decimal | None = None
    """Indicative price; None where it is not known."""
    prices_as_of: str = ""
    """Day of the price list; the loader copies it from the file's `prices`."""

    @property
    def capability(self) -> ComputeCapability:
        """The GPUs' compute capability."""
        return ComputeCapability.parse(self.compute_capability)

    @property
    def memory_per_gpu(self) -> int:
        """Bytes of one GPU, in whole GiB as KAITO divides them."""
        return self.gpu_memory_gib // self.gpu_count * GIB


class Prices(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Where the prices of a file come from."""

    currency: Literal["USD"]
    as_of: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    region: str
    note: str
