"""Whether a registered Node can take pods: Ready, no passing taints left, every requested resource there."""

from __future__ import annotations

import msgspec

from gpu_provisioner.claims.view import ClaimView
from gpu_provisioner.nodes.health import has_gpu, needs_gpu
from kaito_api import labels, quantity
from kaito_api.conditions import ClaimReason
from kaito_api.core.node import Node

_EPHEMERAL = frozenset(
    {
        (labels.TAINT_NOT_READY, "NoSchedule"),
        (labels.TAINT_NOT_READY, "NoExecute"),
        (labels.TAINT_UNREACHABLE, "NoSchedule"),
        (labels.TAINT_CLOUD_UNINITIALIZED, "NoSchedule"),
        (labels.TAINT_UNREGISTERED, "NoExecute"),
    }
)


class Missing(msgspec.Struct, frozen=True):
    """What initialization still waits for."""

    reason: ClaimReason
    message: str


def initialization_gap(claim: ClaimView, node: Node) -> Missing | None:
    """The first thing that is missing, in the order in which Karpenter checks; None when the Node is initialized."""
    if not node.ready:
        condition = node.condition("Ready")
        said = f": {condition.message}" if condition is not None and condition.message else ""
        return Missing(ClaimReason.NODE_NOT_READY, f"node {node.metadata.name} is not Ready{said}")
    startup = {(t.key, t.effect) for t in claim.startup_taints}
    for taint in node.spec.taints:
        where = (taint.key, taint.effect)
        if where in startup:
            return Missing(
                ClaimReason.STARTUP_TAINTS_EXIST, f"startup taint {taint.key}:{taint.effect} is still on the node"
            )
        if where in _EPHEMERAL:
            return Missing(
                ClaimReason.KNOWN_EPHEMERAL_TAINTS_EXIST, f"taint {taint.key}:{taint.effect} is still on the node"
            )
    for name in sorted(claim.requests):
        asked = quantity.parse(claim.requests[name])
        if name in ("storage", labels.RESOURCE_GPU) or asked == 0:
            continue
        if quantity.parse(node.status.allocatable.get(name, 0)) == 0:
            return Missing(ClaimReason.RESOURCE_NOT_REGISTERED, f"the node offers no {name} yet")
    if needs_gpu(claim, node) and not has_gpu(node):
        hint = "is the NVIDIA device plugin installed, and does it tolerate the node's taints?"
        message = f"node {node.metadata.name} offers no {labels.RESOURCE_GPU} yet: {hint}"
        return Missing(ClaimReason.RESOURCE_NOT_REGISTERED, message)
    return None
