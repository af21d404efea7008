"""Which claims have an ill node, and whether so many are ill at once that the fault is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kaito_api import labels, quantity
from kaito_api.core.node import Node

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


def illness(node: Node, *, requests_gpu: bool) -> str:
    """NotReady, kubelet silent, or the GPU gone from an initialized node, in words; "" for a healthy one."""
    condition = node.condition("Ready")
    if condition is not None and condition.status != "True":
        return f"node {node.metadata.name} is {'not Ready' if condition.status == 'False' else 'silent'}"
    if requests_gpu and node.metadata.labels.get(labels.INITIALIZED) == "true" and not has_gpu(node):
        return f"node {node.metadata.name} has lost its GPU"
    return ""


def has_gpu(node: Node) -> bool:
    """Whether the node offers a GPU to pods."""
    return quantity.parse(node.status.allocatable.get(labels.RESOURCE_GPU, 0)) > 0


def to_repair(ill: Sequence[Illness], total: int, now: float) -> tuple[Illness, ...]:
    """Claims to replace: ill for longer than the toleration, and none at all when too many are ill at once.

    The brake: more than 20 % of the nodes, and at least three, ill together mean an outage of the network or the control
    plane, where deleting machines only makes it worse. Source: Karpenter's node repair.
    """
    if len(ill) >= BRAKE_MINIMUM and len(ill) > BRAKE_SHARE * total:
        return ()
    return tuple(i for i in ill if now - i.since >= TOLERATION_SECONDS)
