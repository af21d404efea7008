"""Engine variants (presets/engines.yaml): the builds of the model-server image, and which one runs on which GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from workspace_controller.skus import ComputeCapability

_SPANS_NODES_SINCE: Final = (0, 32)
_FINDS_CONTEXT_SINCE: Final = (0, 25)
"""Oldest releases that were read for these abilities; --performance-mode is as old as the latter."""


class Engine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One build of the model server. An image declares the compute capabilities that it has kernels for."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]+$")]
    image: Annotated[str, msgspec.Meta(min_length=1)]
    """Default image reference; the setting `--engine-image NAME=REF` replaces it."""
    tuner_image: str = ""
    """Default image of the tuner for the same GPUs (`--tuner-images NAME=REF` replaces it); "" where none was built."""
    vllm: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+$")]
    torch: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+\.\d+$")]
    min_compute_capability: str = ""
    max_compute_capability: str = ""
    """Both "" for a build that needs no GPU: it is used only where a setting says so."""
    dtype_bound: Literal["bfloat16", "float16"]
    """Best type that these GPUs compute in."""
    verified: bool = True
    """False for a build that was never run on its GPU; `note` says so."""
    note: str = ""
    env: dict[str, str] = {}

    @property
    def needs_gpu(self) -> bool:
        """Whether this build computes on a GPU."""
        return bool(self.min_compute_capability)

    @property
    def version(self) -> tuple[int, ...]:
        """vLLM's version as numbers."""
        return tuple(int(part) for part in self.vllm.split("."))

    @property
    def spans_nodes(self) -> bool:
        """Whether this build can spread one engine over nodes without Ray."""
        return self.version >= _SPANS_NODES_SINCE

    @property
    def finds_context(self) -> bool:
        """Whether this build finds the longest context that fits by itself (--max-model-len=auto)."""
        return self.version >= _FINDS_CONTEXT_SINCE

    def runs_on(self, capability: ComputeCapability) -> bool:
        """Whether this build has kernels for GPUs of that compute capability."""
        if not self.needs_gpu or capability < ComputeCapability.parse(self.min_compute_capability):
            return False
        return not self.max_compute_capability or capability <= ComputeCapability.parse(self.max_compute_capability)


def choose_engine(engines: Sequence[Engine], capability: ComputeCapability | None, override: str) -> Engine | None:
    """Return the first variant, in catalog order, that runs on `capability` (None: unknown, the first that needs a GPU).

    `override` names the variant whatever the GPU. None means that no build fits (condition EngineLacksGPU).
    """
    if override:
        return next((engine for engine in engines if engine.name == override), None)
    return next(
        (engine for engine in engines if engine.needs_gpu and (capability is None or engine.runs_on(capability))),
        None,
    )


def engine_image(engine: Engine, images: Mapping[str, str]) -> str:
    """Return the image of that variant: what the settings name, else the catalog's default."""
    return images.get(engine.name, engine.image)
