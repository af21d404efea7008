"""Which GPUs a Workspace's nodes have: from the SKU that it asks for, or from the nodes that the user brings."""

from __future__ import annotations

from kaito_api import labels, quantity
from kaito_api.core import Node
from workspace_controller.catalog import Catalog
from workspace_controller.estimator import Gpus
from workspace_controller.skus import ComputeCapability, Sku

_MIB = 1024**2


def of_sku(sku: Sku) -> Gpus:
    """Return the GPUs of one machine of type `sku`."""
    return Gpus(model=sku.gpu_model, count=sku.gpu_count, memory_bytes=sku.memory_per_gpu, capability=sku.capability)


def of_node(node: Node, catalog: Catalog) -> Gpus | None:
    """Return the GPUs of `node`, or None where it shows none (yet).

    GPU feature discovery's labels come first, then the SKU named by the instance-type label, then the bare count that
    the device plugin reports (`memory_bytes` is 0 then).
    """
    found = node.metadata.labels
    count, memory = _number(found.get(labels.GPU_COUNT)), _number(found.get(labels.GPU_MEMORY))
    if count and memory:
        return Gpus(
            model=found.get(labels.GPU_PRODUCT, ""),
            count=count,
            memory_bytes=memory * _MIB,
            capability=_capability(found),
        )
    sku = catalog.sku(found.get(labels.INSTANCE_TYPE, ""))
    if sku is not None:
        return of_sku(sku)
    reported = gpu_count(node)
    return Gpus(count=reported) if reported else None


def gpu_count(node: Node) -> int:
    """Return how many GPUs the node's device plugin offers, 0 before it runs."""
    return int(quantity.parse(node.status.allocatable.get(labels.RESOURCE_GPU, 0)))


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _capability(found: dict[str, str]) -> ComputeCapability | None:
    major, minor = found.get(labels.CUDA_COMPUTE_MAJOR, ""), found.get(labels.CUDA_COMPUTE_MINOR, "")
    if not major.isdecimal() or not minor.isdecimal():
        return None
    return ComputeCapability(int(major), int(minor))
