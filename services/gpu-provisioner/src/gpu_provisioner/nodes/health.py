"""Which claims have an ill node, and whether so many are ill at once that the fault is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gpu_provisioner.claims.view import ClaimView
from kaito_api import labels, quantity
from kaito_api.core.node import Node
from kaito_api.quantity import Quantities

GPU_SEEN_ANNOTATION = "kaito.sh/gpu-seen"
"""On our Nodes: it has offered a GPU. Only such a node can lose it; one that never had it lacks the device plugin, and so would
the machine that is bought in its place."""
_GPU_RESOURCES = (f"{labels.RESOURCE_GPU}.", "nvidia.com/mig-")
"""Names that NVIDIA's device plugin gives to shared GPUs and to slices begin like this."""

TOLERATION_SECONDS = 600.0
BRAKE_SHARE = 0.2
BRAKE_MINIMUM = 3


class Illness(msgspec.Struct, frozen=True):
    """Why a claim's node is ill, and since when this was seen without a break, in monotonic seconds.

    By first sight, not by the node's own time stamps: a clock that jumps, ours or the node's, must not cost machines.
    """

    claim: str
    reason: str
    since: float


def illness(node: Node) -> str:
    """NotReady, kubelet silent, or the GPU gone that the node had, in words; "" for a healthy one."""
    condition = node.condition("Ready")
    if condition is not None and condition.status != "True":
        return f"node {node.metadata.name} is {'not Ready' if condition.status == 'False' else 'silent'}"
    if GPU_SEEN_ANNOTATION in node.metadata.annotations and not has_gpu(node):
        return f"node {node.metadata.name} has lost its GPU"
    return ""


def has_gpu(node: Node) -> bool:
    """Whether the node offers a GPU, or a part of one, to pods."""
    return offers_gpu(node.status.allocatable)


def offers_gpu(allocatable: Quantities) -> bool:
    """Whether a GPU, or a part of one, is among what pods can have."""
    return any(
        quantity.parse(amount) > 0
        for name, amount in allocatable.items()
        if name == labels.RESOURCE_GPU or name.startswith(_GPU_RESOURCES)
    )


def needs_gpu(claim: ClaimView, node: Node) -> bool:
    """Whether the claim's node is to offer a GPU: the claim requests it, or is for NVIDIA's and the machine's size has GPUs.

    Claims of a Workspace request storage alone; what says that they are about GPUs is the label accelerator.
    """
    if quantity.parse(claim.requests.get(labels.RESOURCE_GPU, 0)) > 0:
        return True
    meant = claim.labels.get(labels.ACCELERATOR) == labels.ACCELERATOR_NVIDIA
    return meant and node.metadata.labels.get(labels.MACHINE_TYPE) != "cpu"


def to_repair(ill: Sequence[Illness], total: int, now: float) -> tuple[Illness, ...]:
    """Claims to replace: ill for longer than the toleration, and none at all when too many are ill at once.

    The brake: more than 20 % of the nodes, and at least three, ill together mean an outage of the network or the control
    plane, where deleting machines only makes it worse. Source: Karpenter's node repair.
    """
    if len(ill) >= BRAKE_MINIMUM and len(ill) > BRAKE_SHARE * total:
        return ()
    return tuple(i for i in ill if now - i.since >= TOLERATION_SECONDS)
