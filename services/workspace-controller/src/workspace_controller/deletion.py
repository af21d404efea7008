"""Pure: how a Workspace ends. Workload, its pods, the claims, then the finalizer, each only when the one before is gone.

A node that still runs our pod is not released under it, and the Workspace does not disappear while a claim (and so
perhaps a bill) remains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from kaito_api.conditions import Reason
from kaito_api.core import Deployment, Job, Node, Pod, StatefulSet
from kaito_api.meta import Resource
from kaito_api.resources import DEPLOYMENTS, JOBS, STATEFULSETS
from workspace_controller.claims import ClaimView, claim_resource, views
from workspace_controller.decision import Delete
from workspace_controller.observed import Observed
from workspace_controller.settings import ClaimApi

LOST_NODE_GRACE: Final = 60.0
"""Seconds after a pod's deadline before the pod of a silent node is given up: kubelet may only be slow."""


class Stage(StrEnum):
    """What the deletion waits for."""

    WORKLOAD = "workload"
    PODS = "pods"
    CLAIMS = "claims"
    DONE = "done"


class DeletionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The next step. `message` tells the user what is still there."""

    stage: Stage
    deletes: tuple[Delete, ...] = ()
    reason: Reason = Reason.DELETED
    message: str = ""
    requeue_after: float | None = None


def plan_deletion(observed: Observed, claim_api: ClaimApi, now: datetime) -> DeletionPlan:
    """Plan the next step of the end of `observed.workspace`."""
    workload = tuple(_workload(observed))
    if workload:
        names = ", ".join(sorted(f"{step.resource.kind} {step.key.name}" for step in workload))
        return DeletionPlan(stage=Stage.WORKLOAD, deletes=workload, message=f"Deleting the workload: {names}.")
    waiting, requeue_after = _pods_left(observed.pods, observed.nodes, now)
    if waiting:
        names = ", ".join(pod.metadata.name for pod in waiting)
        return DeletionPlan(
            stage=Stage.PODS,
            message=f"Waiting for {len(waiting)} pod(s) to stop before their nodes are released: {names}.",
            requeue_after=requeue_after,
        )
    uid = observed.workspace.metadata.uid
    claims = [claim for claim in views(observed.claims) if claim.workspace_uid in {uid, ""}]
    if claims:
        return _claims_step(claims, claim_api)
    return DeletionPlan(stage=Stage.DONE, message="Everything that belonged to the Workspace is gone.")


def _workload(observed: Observed) -> Iterator[Delete]:
    """Yield the deletion of each workload object of ours that is not on its way out already."""
    stands: list[tuple[Resource[Any], StatefulSet | Deployment | Job | None]] = [
        (STATEFULSETS, observed.statefulset),
        *((DEPLOYMENTS, deployment) for deployment in observed.deployments),
        *((JOBS, job) for job in observed.jobs),
    ]
    for resource, found in stands:
        if found is not None and observed.owns(found) and not found.metadata.deleting:
            yield Delete(resource=resource, key=found.metadata.key, uid=found.metadata.uid)


def _pods_left(pods: Sequence[Pod], nodes: Sequence[Node], now: datetime) -> tuple[list[Pod], float | None]:
    """Return the pods that still run, and the seconds until one of a lost node may be given up.

    The pod of a node that is gone can never be confirmed by a kubelet, and its claim would never be deleted if we
    waited for it: such a pod counts as stopped, at once where the node object is gone, after its deadline where the
    node is only silent.
    """
    by_name = {node.metadata.name: node for node in nodes}
    left: list[Pod] = []
    waits: list[float] = []
    for pod in sorted(pods, key=lambda pod: pod.metadata.name):
        if pod.finished or not pod.spec.node_name:
            continue
        node = by_name.get(pod.spec.node_name)
        if node is None:
            continue
        deadline = pod.metadata.deletion_timestamp
        if node.ready or deadline is None:
            left.append(pod)
            continue
        wait = (deadline - now).total_seconds() + LOST_NODE_GRACE
        if wait > 0:
            left.append(pod)
            waits.append(wait)
    return left, min(waits, default=None)


def _claims_step(claims: list[ClaimView], claim_api: ClaimApi) -> DeletionPlan:
    resource = claim_resource(claim_api)
    names = ", ".join(claim.key.name + (f" (node {claim.node_name})" if claim.node_name else "") for claim in claims)
    return DeletionPlan(
        stage=Stage.CLAIMS,
        deletes=tuple(
            Delete(resource=resource, key=claim.key, uid=claim.uid) for claim in claims if not claim.deleting
        ),
        reason=Reason.WAITING_FOR_CLAIMS,
        message=(
            f"Waiting for {len(claims)} {resource.kind}(s) to be deleted; their machines may still cost: {names}. "
            f"If this lasts, look at `kubectl describe {resource.plural.removesuffix('s')} {claims[0].key.name}`."
        ),
    )
