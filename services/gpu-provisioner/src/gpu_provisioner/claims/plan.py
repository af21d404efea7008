"""What a live claim's status becomes, from what its pool and its Node show: pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from gpu_provisioner.claims import conditions
from gpu_provisioner.claims.conditions import DONE, Step
from gpu_provisioner.claims.options import LaunchOption
from gpu_provisioner.claims.view import ClaimKind, ClaimView
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION, has_gpu, needs_gpu, offers_gpu
from gpu_provisioner.nodes.initialization import initialization_gap
from gpu_provisioner.nodes.registration import NodePatch, registration_patch
from gpu_provisioner.pools.plan import ClaimOutcome, Outcome
from kaito_api import labels
from kaito_api.conditions import ClaimCondition, ClaimReason
from kaito_api.core.node import Node
from kaito_api.meta import Condition
from kaito_api.quantity import Quantities

NODE_IMAGE_LABEL = "kubernetes.azure.com/node-image-version"
_COPIED = (labels.TOPOLOGY_ZONE, labels.TOPOLOGY_REGION, labels.OS, labels.ARCH, labels.INSTANCE_TYPE)


class ClaimStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status fields that we own."""

    provider_id: str
    node_name: str
    image_id: str
    capacity: Quantities
    allocatable: Quantities
    conditions: list[Condition]


class ClaimPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Status to write, and what goes before and after it: a claim is not Ready before its Node carries what it asks for.

    `node` comes before the status; `node_later` and `labels` (of the claim) after it, because nobody waits for them.
    """

    status: ClaimStatus
    labels: dict[str, str] = {}
    node: NodePatch = NodePatch()
    node_later: NodePatch = NodePatch()


def plan_claim(
    claim: ClaimView, outcome: ClaimOutcome, nodes: tuple[Node, ...], option: LaunchOption | None, now: datetime
) -> ClaimPlan:
    """The plan for a live claim: `nodes` are those with its providerID."""
    provider_id = claim.provider_id or outcome.provider_id
    launched = _launched(claim, outcome, provider_id)
    node = nodes[0] if provider_id and len(nodes) == 1 else None
    if launched is not DONE:
        waits = conditions.unknown(ClaimReason.AWAITING_RECONCILIATION, "the machine does not exist yet")
        return ClaimPlan(
            status=_status(claim, provider_id, None, conditions.lifecycle(claim, launched, waits, waits, now))
        )
    if node is None:
        registered = _unregistered(provider_id, nodes)
        waits = conditions.unknown(ClaimReason.NODE_NOT_FOUND, "the node has not joined the cluster")
        return ClaimPlan(
            status=_status(claim, provider_id, None, conditions.lifecycle(claim, launched, registered, waits, now)),
            labels=_claim_labels(claim, option, None),
        )
    patch, later = registration_patch(claim, node), NodePatch()
    gap = initialization_gap(claim, patch.applied(node))  # startup taints that it brings hold the claim back
    initialized = DONE
    if gap is not None and not conditions.is_done(claim, ClaimCondition.INITIALIZED):
        initialized = conditions.unknown(gap.reason, gap.message)
    else:
        mark = _marks(claim, node)
        late = GPU_SEEN_ANNOTATION in mark.annotations and not has_gpu(node)  # the status is about to forget it
        if patch.empty and not late:
            later = mark
        elif not mark.empty:
            marked, noted = {**patch.labels, **mark.labels}, {**patch.annotations, **mark.annotations}
            patch = msgspec.structs.replace(patch, labels=marked, annotations=noted)
    return ClaimPlan(
        status=_status(claim, provider_id, node, conditions.lifecycle(claim, launched, DONE, initialized, now)),
        labels=_claim_labels(claim, option, node),
        node=patch,
        node_later=later,
    )


def _marks(claim: ClaimView, node: Node) -> NodePatch:
    """What an initialized Node carries: the label, and that it has had the GPU that its claim is about."""
    done = node.metadata.labels.get(labels.INITIALIZED) == "true"
    had = has_gpu(node) or offers_gpu(claim.allocatable)  # the second: lost before the mark was written
    news = needs_gpu(claim, node) and had and GPU_SEEN_ANNOTATION not in node.metadata.annotations
    return NodePatch(
        labels={} if done else {labels.INITIALIZED: "true"},
        annotations={GPU_SEEN_ANNOTATION: "true"} if news else {},
    )


def invalid_status(claim: ClaimView, message: str, now: datetime) -> ClaimStatus:
    """The status of a claim that can never be launched as it stands."""
    launched = conditions.failed(ClaimReason.INVALID_CLAIM, message)
    waits = conditions.unknown(ClaimReason.AWAITING_RECONCILIATION, "the claim cannot be launched")
    return _status(claim, claim.provider_id, None, conditions.lifecycle(claim, launched, waits, waits, now))


def unregistered_status(claim: ClaimView, message: str, now: datetime) -> ClaimStatus:
    """The status of a claim whose machine was made and never joined."""
    launched = conditions.unknown(ClaimReason.AWAITING_RECONCILIATION, "the machine exists, its node was never seen")
    registered = conditions.failed(ClaimReason.REGISTRATION_TIMEOUT, f"{message}; the claim is deleted to be replaced")
    waits = conditions.unknown(ClaimReason.NODE_NOT_FOUND, "the node has not joined the cluster")
    return _status(claim, claim.provider_id, None, conditions.lifecycle(claim, launched, registered, waits, now))


def status_patch(claim: ClaimView, status: ClaimStatus) -> dict[str, object] | None:
    """The merge patch of the status subresource, None when it stands already. Lists go whole, bound to a version."""
    body: dict[str, object] = {}
    for field, name in (("provider_id", "providerID"), ("node_name", "nodeName"), ("image_id", "imageID")):
        value = getattr(status, field)
        known = field != "image_id" or claim.kind is ClaimKind.NODE_CLAIM
        if value and known and value != getattr(claim, field):
            body[name] = value
    for field in ("capacity", "allocatable"):
        if getattr(status, field) and getattr(status, field) != getattr(claim, field):
            body[field] = getattr(status, field)
    if status.conditions is not claim.conditions:
        body["conditions"] = [msgspec.to_builtins(c) | {"status": str(c.status)} for c in status.conditions]
    return {"metadata": {"resourceVersion": claim.resource_version}, "status": body} if body else None


def _launched(claim: ClaimView, outcome: ClaimOutcome, provider_id: str) -> Step:
    if provider_id:
        return DONE
    if outcome.outcome is Outcome.FAILED and outcome.failure is not None:
        step = conditions.failed if outcome.failure.permanent else conditions.unknown
        return step(outcome.failure.failure, str(outcome.failure))
    return conditions.unknown(ClaimReason.AWAITING_RECONCILIATION, outcome.message or "waiting for its turn")


def _unregistered(provider_id: str, nodes: tuple[Node, ...]) -> Step:
    if len(nodes) > 1:
        names = ", ".join(sorted(n.metadata.name for n in nodes))
        return conditions.failed(
            ClaimReason.MULTIPLE_NODES_FOUND, f"nodes {names} all have the providerID {provider_id}: delete all but one"
        )
    return conditions.unknown(ClaimReason.NODE_NOT_FOUND, f"no node has the providerID {provider_id} yet")


def _status(claim: ClaimView, provider_id: str, node: Node | None, conditions_: list[Condition]) -> ClaimStatus:
    if node is None:
        return ClaimStatus(
            provider_id=provider_id,
            node_name=claim.node_name,
            image_id=claim.image_id,
            capacity=claim.capacity,
            allocatable=claim.allocatable,
            conditions=conditions_,
        )
    return ClaimStatus(
        provider_id=provider_id,
        node_name=node.metadata.name,
        image_id=node.metadata.labels.get(NODE_IMAGE_LABEL, ""),
        capacity=node.status.capacity,
        allocatable=node.status.allocatable,
        conditions=conditions_,
    )


def _claim_labels(claim: ClaimView, option: LaunchOption | None, node: Node | None) -> dict[str, str]:
    """Instance type, zone and capacity type as kubectl's columns read them; what the Node says wins."""
    wanted: dict[str, str] = {}
    if option is not None:
        wanted |= {labels.INSTANCE_TYPE: option.vm_size, labels.CAPACITY_TYPE: option.capacity_type}
    if node is not None:
        wanted |= {key: node.metadata.labels[key] for key in _COPIED if key in node.metadata.labels}
    return {key: value for key, value in wanted.items() if claim.labels.get(key) != value}
