"""Pure: claims and nodes to the conditions NodeClaimReady, NodesReady and ResourceReady."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from kaito_api.conditions import Reason
from kaito_api.core import Node
from workspace_controller.claims import ClaimView
from workspace_controller.decision import Obstacle
from workspace_controller.failures import cut
from workspace_controller.nodes import NodePlan
from workspace_controller.status.finding import Finding

_PRESSURES: Final = ("DiskPressure", "MemoryPressure", "PIDPressure")


class ResourceFindings(msgspec.Struct, frozen=True, kw_only=True):
    """The three findings; `claims` is None where the user brings the nodes."""

    claims: Finding | None
    nodes: Finding
    resource: Finding


def judge_resources(plan: NodePlan, claims: Sequence[ClaimView], nodes: Sequence[Node]) -> ResourceFindings:
    """Judge the nodes of one Workspace by its plan and by the state of its claims and nodes."""
    claims_found = None if plan.bring_your_own else _claims(plan, claims)
    nodes_found = _nodes(plan, nodes, claims_found)
    return ResourceFindings(claims=claims_found, nodes=nodes_found, resource=_resource(claims_found, nodes_found))


def obstructed(obstacle: Obstacle) -> Finding:
    """Return ResourceReady of a Workspace for which no node is asked for because of `obstacle`."""
    if obstacle.field.startswith(("inference", "tuning")):
        message = f"No nodes are requested until the spec can be planned: {obstacle.message}"
        return Finding(ok=False, reason=Reason.RESOURCE_NOT_READY, message=message)
    return Finding(ok=False, reason=obstacle.reason, message=obstacle.message)


def _claims(plan: NodePlan, claims: Sequence[ClaimView]) -> Finding:
    mine = [claim for claim in claims if claim.key.name in plan.claims]
    ready = sum(claim.ready for claim in mine)
    waits = plan.blocked is not None and plan.blocked.reason == Reason.NODE_CLAIM_NOT_READY
    wanted = len(plan.claims) + len(plan.creates)
    count = f"{ready} of {wanted} claim(s) ready"
    if ready == wanted and not waits:
        return Finding(ok=True, reason=Reason.NODE_CLAIMS_READY, message=f"{count}.")
    for claim in mine:
        blocker = claim.blocker
        if not claim.ready and blocker is not None and blocker.reason and blocker.message:
            text = cut(f"{count}. {claim.key.name}: {blocker.message}")
            return Finding(ok=False, reason=blocker.reason, message=text)
    if plan.blocked is not None and waits and not plan.creates:
        return Finding(ok=False, reason=Reason.NODE_CLAIM_NOT_READY, message=cut(f"{count}: {plan.blocked.message}"))
    # The same words before and after the claims are created: the creation itself is no news for the status.
    return Finding(ok=False, reason=Reason.NODE_CLAIM_NOT_READY, message=f"{count}; waiting for the node provisioner.")


def _nodes(plan: NodePlan, nodes: Sequence[Node], claims: Finding | None) -> Finding:
    count = f"{len(plan.worker_nodes)} of {plan.target_count} node(s) ready"
    if claims is not None and not claims.ok:
        return Finding(ok=False, reason=Reason.NODE_NOT_READY, message="The nodes come with their claims.")
    if plan.blocked is not None:
        return Finding(ok=False, reason=plan.blocked.reason, message=cut(plan.blocked.message))
    return Finding(ok=True, reason=Reason.NODES_READY, message=f"{count}.{_pressure(plan, nodes)}")


def _pressure(plan: NodePlan, nodes: Sequence[Node]) -> str:
    """Return a warning about the pressed nodes among the ready ones, "" where none is."""
    pressed = [
        f"{node.metadata.name} ({name})"
        for node in nodes
        if node.metadata.name in plan.worker_nodes
        for name in _PRESSURES
        if (condition := node.condition(name)) is not None and condition.status == "True"
    ]
    return f" Worker node(s) under resource pressure: {', '.join(pressed)}." if pressed else ""


def _resource(claims: Finding | None, nodes: Finding) -> Finding:
    for finding in (claims, nodes):
        if finding is not None and not finding.ok:
            return Finding(ok=False, reason=finding.reason, message=finding.message)
    return Finding(ok=True, reason=Reason.RESOURCE_SUCCESS, message="The nodes are ready.")
