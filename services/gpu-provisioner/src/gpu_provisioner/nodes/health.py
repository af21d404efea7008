"""Which claims have an ill node, and whether so many are ill at once that the fault is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from kaito_api import labels, quantity
from kaito_api.core.node import Node

TOLERATION = timedelta(minutes=10)
BRAKE_SHARE = 0.2
BRAKE_MINIMUM = 3


class Illness(msgspec.Struct, frozen=True):
    """Why a node is ill, and since when."""

    claim: str
    reason: str
    since: datetime


def illness(claim: str, node: Node, requests_gpu: bool, gpu_missing_since: datetime | None) -> Illness | None:
    """NotReady, kubelet silent, or the GPU gone from an initialized node; None for a healthy one."""
    condition = node.condition("Ready")
    if condition is not None and condition.status != "True" and condition.last_transition_time is not None:
        word = "not Ready" if condition.status == "False" else "silent"
        return Illness(claim, f"node {node.metadata.name} is {word}", condition.last_transition_time)
    initialized = node.metadata.labels.get(labels.INITIALIZED) == "true"
    if requests_gpu and initialized and gpu_missing_since is not None and not has_gpu(node):
        return Illness(claim, f"node {node.metadata.name} has lost its GPU", gpu_missing_since)
    return None


def has_gpu(node: Node) -> bool:
    """Whether the node offers a GPU to pods."""
    return quantity.parse(node.status.allocatable.get(labels.RESOURCE_GPU, 0)) > 0


def to_repair(ill: Sequence[Illness], total: int, now: datetime) -> tuple[Illness, ...]:
    """Claims to replace: ill for longer than the toleration, and none at all when too many are ill at once.

    The brake: more than 20 % of the nodes, and at least three, ill together mean an outage of the network or the control
    plane, where deleting machines only makes it worse. Source: Karpenter's node repair.
    """
    if len(ill) >= BRAKE_MINIMUM and len(ill) > BRAKE_SHARE * total:
        return ()
    return tuple(i for i in ill if now - i.since >= TOLERATION)
