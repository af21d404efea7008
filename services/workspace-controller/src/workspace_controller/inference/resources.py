"""What the pod asks of its node: GPUs, processors, memory, disk."""

from __future__ import annotations

import math
from typing import Any, Final

from kaito_api import labels
from workspace_controller.inference.engine_args import MAX_CPU_LORAS
from workspace_controller.inference.weights import Weights
from workspace_controller.memory import lora_slot_bytes
from workspace_controller.parallelism import Parallelism
from workspace_controller.presets import GIB
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing

FETCH_REQUESTS: Final = {"cpu": "500m", "memory": "512Mi"}
"""Of the init container: it streams, whatever the size of the model."""
_BASE_GIB: Final = 4
_WORKER_GIB: Final = 3
"""One engine process for each GPU: CUDA context, allocator and compiled kernels."""
_CPUS_PER_GPU: Final = 4
_NODE_SHARE: Final = 0.75
"""Of a node's memory, what its one model may ask for: system pods need the rest."""
_SCRATCH_GIB: Final = 4


def server_resources(sizing: Sizing, weights: Weights, settings: Settings) -> dict[str, Any]:
    """Return requests and limits of the container that serves. Only GPUs have a limit: the node has one tenant."""
    gpus = str(sizing.gpus_per_node)
    requests = {
        "cpu": settings.server_cpu or _cpu(sizing),
        "ephemeral-storage": f"{weights.disk_gib + _SCRATCH_GIB}Gi",
        "memory": settings.server_memory or _memory(sizing),
        labels.RESOURCE_GPU: gpus,
    }
    return {"limits": {labels.RESOURCE_GPU: gpus}, "requests": requests}


def shared_memory(sizing: Sizing) -> str:
    """Return the size limit of /dev/shm, over which the engine's processes talk."""
    return f"{1 + sizing.gpus_per_node}Gi"


def _cpu(sizing: Sizing) -> str:
    if sizing.engine is not None and not sizing.engine.needs_gpu:
        return "500m"
    wanted = _CPUS_PER_GPU * sizing.gpus_per_node
    return str(wanted if sizing.sku is None else max(1, min(wanted, sizing.sku.cpus - 1)))


def _memory(sizing: Sizing) -> str:
    """Processes, adapters kept in host memory, and a quarter of the weights, which are read through the page cache."""
    if sizing.preset is None or (sizing.engine is not None and not sizing.engine.needs_gpu):
        return f"{_BASE_GIB}Gi"
    adapters = 0
    if sizing.lora.slots:
        adapters = MAX_CPU_LORAS * lora_slot_bytes(sizing.preset.shape, sizing.lora.rank, Parallelism())
    wanted = math.ceil(
        _BASE_GIB
        + _WORKER_GIB * sizing.gpus_per_node
        + adapters / GIB
        + sizing.preset.weights_gib / sizing.node_count / 4
    )
    return f"{wanted if sizing.sku is None else min(wanted, int(sizing.sku.memory_gib * _NODE_SHARE))}Gi"
