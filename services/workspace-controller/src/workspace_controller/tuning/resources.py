"""What the containers of the Job ask of the node, and the most that they may take."""

from __future__ import annotations

import math
from typing import Any, Final

from kaito_api import labels, quantity
from workspace_controller.inference.weights import Weights
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing
from workspace_controller.tuning.command import processes

FETCHER: Final = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
"""Of the containers that bring weights and data: they stream, whatever the size."""
PACKAGER: Final = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
_SCRATCH_VOLUMES: Final = 3
"""Data, work and results. The kubelet evicts a pod whose volumes together hold more than its limit, too."""
TMP_GIB: Final = 4
_BASE_GIB: Final = 6
_PROCESS_GIB: Final = 4
"""One training process: CUDA context, allocator, pinned buffers."""
_CPUS_PER_PROCESS: Final = 4
_NODE_SHARE: Final = 0.75
"""Of a node's memory, what its one Job may ask for: system pods need the rest."""
_UNKNOWN_CPUS: Final = 4


def tuner_resources(sizing: Sizing, weights: Weights, settings: Settings) -> dict[str, Any]:
    """Return requests and limits of the container that trains."""
    gpus = str(sizing.gpus_per_node)
    limits = {
        "cpu": cpu_limit(sizing, settings),
        "ephemeral-storage": f"{weights.disk_gib + _SCRATCH_VOLUMES * settings.tuning.scratch_gib + TMP_GIB}Gi",
        "memory": settings.tuning.memory or _memory(sizing, limit=True),
        labels.RESOURCE_GPU: gpus,
    }
    requests = {
        "cpu": _least(_cpu_request(sizing), limits["cpu"]),
        "ephemeral-storage": f"{weights.disk_gib + settings.tuning.scratch_gib}Gi",
        "memory": _least(_memory(sizing, limit=False), limits["memory"]),
        labels.RESOURCE_GPU: gpus,
    }
    return {"limits": limits, "requests": requests}


def cpu_limit(sizing: Sizing, settings: Settings) -> str:
    """Return the CPU limit of the container that trains."""
    if settings.tuning.cpu:
        return settings.tuning.cpu
    if sizing.sku is not None:
        return str(max(1, sizing.sku.cpus - 1))
    return str(_UNKNOWN_CPUS * processes(sizing))


def threads(sizing: Sizing, settings: Settings) -> int:
    """Return the threads of one training process: its share of the CPU limit, and never more than it has."""
    return max(1, math.floor(quantity.parse(cpu_limit(sizing, settings))) // processes(sizing))


def shared_memory(sizing: Sizing) -> str:
    """Return the size limit of /dev/shm, over which the training processes talk."""
    return f"{1 + sizing.gpus_per_node}Gi"


def _cpu_request(sizing: Sizing) -> str:
    if sizing.engine is not None and not sizing.engine.needs_gpu:
        return "500m"
    wanted = _CPUS_PER_PROCESS * processes(sizing)
    return str(wanted if sizing.sku is None else max(1, min(wanted, sizing.sku.cpus - 1)))


def _memory(sizing: Sizing, *, limit: bool) -> str:
    """Processes, and the weights once: they are read through the page cache and quantised piece by piece."""
    if sizing.preset is None or (sizing.engine is not None and not sizing.engine.needs_gpu):
        return f"{_BASE_GIB if limit else _BASE_GIB // 3}Gi"
    wanted = math.ceil(_BASE_GIB + _PROCESS_GIB * processes(sizing) + sizing.preset.weights_gib)
    if sizing.sku is None:
        return f"{2 * wanted if limit else wanted}Gi"
    most = int(sizing.sku.memory_gib * _NODE_SHARE)
    return f"{most if limit else min(wanted, most)}Gi"


def _least(one: str, other: str) -> str:
    return one if quantity.parse(one) <= quantity.parse(other) else other
