"""Pure: the resource block of a Workspace, and what is observed, to the claims that are wanted and those that are surplus.

A claim fills a slot (0 to target - 1). Its name follows from (UID, slot, attempt), so a create that is repeated cannot
buy a second machine. The attempt rises only when the slot's claim is being deleted or has failed for good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Node
from kaito_api.workspace import Workspace
from workspace_controller.claim_manifest import claim_manifest
from workspace_controller.claim_slots import SlotPlan, plan_slots
from workspace_controller.claims import Claim, claim_resource
from workspace_controller.decision import Delete
from workspace_controller.gpus import gpu_count
from workspace_controller.manifest import Manifest
from workspace_controller.selector import brought_nodes, node_labels, ownership_labels, select
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """Why the nodes are not complete yet, for the condition. Nothing here stops the creates of the same plan."""

    reason: Reason
    message: str


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about nodes."""

    target_count: int
    creates: tuple[Manifest, ...] = ()
    """Claims to POST. AlreadyExists is success."""
    deletes: tuple[Delete, ...] = ()
    """Surplus claims, and failed ones that are replaced by this plan's creates."""
    claims: tuple[str, ...] = ()
    """Names of the live claims that fill a slot, in slot order."""
    worker_nodes: tuple[str, ...] = ()
    """Sorted names of the nodes that serve or will serve this Workspace and are Ready: status.workerNodes."""
    bring_your_own: bool = False
    blocked: Blocked | None = None
    requeue_after: float | None = None
    """Seconds until a failed slot may be tried again."""


def plan_nodes(  # noqa: PLR0917 - the fixed order of every planner: spec, observed, sizing, settings, now
    workspace: Workspace,
    nodes: Sequence[Node],
    claims: Sequence[Claim],
    sizing: Sizing,
    settings: Settings,
    now: datetime,
    *,
    busy: frozenset[str] = frozenset(),
) -> NodePlan:
    """Plan the nodes of `workspace`.

    `nodes` are those that match its selector or carry its labels (all nodes of the cluster do as well), `claims` those
    that carry its labels; the claims of a namesake with another UID are ignored. On the `busy` nodes pods of the Workspace
    run: a cordon says nothing against those.
    """
    if not sizing.instance_type:
        surplus = plan_slots(claims, workspace.metadata.uid, 0, 0, now).deletes
        return _bring_your_own(workspace, nodes, sizing, _deletes(surplus, settings), busy)
    owned = select(nodes, node_labels(workspace) | ownership_labels(workspace))
    claimed = {claim.status.node_name for claim in claims} - {""}
    brought = [
        node for node in owned if node.metadata.name not in claimed and labels.NODEPOOL not in node.metadata.labels
    ]
    slots = plan_slots(claims, workspace.metadata.uid, sizing.node_count, len(brought), now)
    ready = tuple(node for node in owned if node.ready)
    return NodePlan(
        target_count=sizing.node_count,
        creates=tuple(claim_manifest(workspace, sizing, settings, slot, attempt) for slot, attempt in slots.creates),
        deletes=_deletes(slots.deletes, settings),
        claims=tuple(claim.metadata.name for claim in slots.live),
        worker_nodes=tuple(node.metadata.name for node in ready),
        blocked=_claims_blocked(slots, sizing) or _nodes_blocked(ready, sizing),
        requeue_after=slots.requeue_after,
    )


def _bring_your_own(
    workspace: Workspace, nodes: Sequence[Node], sizing: Sizing, surplus: tuple[Delete, ...], busy: frozenset[str]
) -> NodePlan:
    """Count and check what the user brings. Claims of an earlier instanceType are `surplus`."""
    brought = brought_nodes(workspace, nodes)
    faults = {node.metadata.name: _unusable(node, sizing, busy) for node in brought}
    usable = tuple(node for node in brought if faults[node.metadata.name] is None)
    return NodePlan(
        target_count=sizing.node_count,
        deletes=surplus,
        worker_nodes=tuple(node.metadata.name for node in usable),
        bring_your_own=True,
        blocked=_brought_blocked(workspace, nodes, usable, faults, sizing),
    )


def _brought_blocked(
    workspace: Workspace,
    nodes: Sequence[Node],
    usable: Sequence[Node],
    faults: Mapping[str, str | None],
    sizing: Sizing,
) -> Blocked | None:
    brought = brought_nodes(workspace, nodes)
    taken = [node for node in select(nodes, node_labels(workspace)) if node not in brought]
    if len(usable) >= sizing.node_count and (sizing.gpus is not None or sizing.preset is None):
        return None
    selector = ", ".join(f"{key}={value}" for key, value in node_labels(workspace).items())
    if not brought and not taken:
        example = f", for example {sizing.suggestion}, the cheapest that fits" if sizing.suggestion else ""
        message = (
            f"no node carries {selector}, and resource.instanceType is empty: label the nodes that you bring, or create the "
            f"Workspace anew with an instance type{example}"
        )
        return Blocked(reason=Reason.INSTANCE_TYPE_MISSING, message=message)
    told = [f"{name} {fault}" for name, fault in faults.items() if fault is not None]
    told += [f"{node.metadata.name} serves {_owner(node)}" for node in taken]
    message = f"{len(usable)} of {sizing.node_count} node(s) with {selector} can be used"
    return Blocked(reason=Reason.NOT_ENOUGH_NODES, message="; ".join([message, *told[:5]]))


def _owner(node: Node) -> str:
    found = node.metadata.labels
    return f"Workspace {found.get(labels.WORKSPACE_NAMESPACE, '')}/{found[labels.WORKSPACE]}: label another node"


def _unusable(node: Node, sizing: Sizing, busy: frozenset[str]) -> str | None:
    """Return why a node that the user brings cannot serve, or None."""
    if not node.ready:
        return "is not Ready"
    if node.spec.unschedulable and node.metadata.name not in busy:
        return "is cordoned"
    if sizing.preset is None:
        return None
    offered = gpu_count(node)
    if offered < sizing.gpus_per_node:
        return f"offers {offered} of {sizing.gpus_per_node} {labels.RESOURCE_GPU}: is the device plugin running?"
    return None


def _claims_blocked(slots: SlotPlan, sizing: Sizing) -> Blocked | None:
    if slots.creates:
        message = f"asking for {len(slots.creates)} of {sizing.node_count} node(s) of {sizing.instance_type}"
        return Blocked(reason=Reason.NODE_CLAIM_NOT_READY, message=message)
    if slots.failed:
        message = f"no machine for {len(slots.failed)} of {sizing.node_count} node(s): {slots.failed[0]}"
        return Blocked(reason=Reason.NODE_CLAIM_NOT_READY, message=message)
    return None


def _nodes_blocked(ready: Sequence[Node], sizing: Sizing) -> Blocked | None:
    wrong = [
        f"{node.metadata.name} is a {found}"
        for node in ready
        if (found := node.metadata.labels.get(labels.INSTANCE_TYPE, "")).lower()
        not in ("", sizing.instance_type.lower())
    ]
    usable = len(ready) - len(wrong)
    if usable < sizing.node_count:
        message = f"{usable} of {sizing.node_count} node(s) of {sizing.instance_type} Ready"
        return Blocked(reason=Reason.NODE_NOT_READY, message="; ".join([message, *wrong]))
    without = [
        f"{node.metadata.name} offers {gpu_count(node)} of {sizing.gpus_per_node}"
        for node in ready
        if gpu_count(node) < sizing.gpus_per_node
    ]
    if len(ready) - len(without) < sizing.node_count:
        message = f"waiting for {labels.RESOURCE_GPU}: {'; '.join(without)} (is the device plugin running?)"
        return Blocked(reason=Reason.NODE_PLUGINS_NOT_READY, message=message)
    return None


def _deletes(claims: Sequence[Claim], settings: Settings) -> tuple[Delete, ...]:
    resource = claim_resource(settings.claim_api)
    return tuple(Delete(resource=resource, key=claim.metadata.key, uid=claim.metadata.uid) for claim in claims)
