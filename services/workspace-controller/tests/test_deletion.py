"""The end of a Workspace: what is deleted when, what is waited for, and what is given up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kaito_api import labels
from kaito_api.core import Job, Node, Pod
from kaito_api.machine import Machine
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace
from workspace_controller.deletion import LOST_NODE_GRACE, Stage, plan_deletion
from workspace_controller.observed import Observed
from workspace_controller.settings import ClaimApi
from workspace_controller.sweep import orphans

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UID = "5f0e6b9a-0000-4000-8000-000000000001"
OWNED = {"ownerReferences": [{"apiVersion": "v", "kind": "Workspace", "name": "phi", "uid": UID, "controller": True}]}


def observe(make: Callable[..., Workspace], **parts: Any) -> Observed:
    return Observed(workspace=make(), **parts)


def pod(node: str = "n", *, deadline: datetime | None = None, phase: str = "Running") -> Pod:
    metadata = {"name": "phi-0", "namespace": "team", "deletionTimestamp": deadline}
    return msgspec.convert({"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}}, Pod)


def a_node(*, ready: bool) -> Node:
    conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    return msgspec.convert({"metadata": {"name": "n"}, "status": {"conditions": conditions}}, Node)


def claim(name: str, uid: str = UID, *, deleting: bool = False, kind: type = NodeClaim) -> Any:
    metadata: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "labels": {labels.WORKSPACE: "phi", labels.WORKSPACE_NAMESPACE: "team"},
        "annotations": {labels.WORKSPACE_UID: uid} if uid else {},
        "deletionTimestamp": NOW if deleting else None,
    }
    spec = {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}
    return msgspec.convert({"metadata": metadata, "spec": spec}, kind)


LATE = NOW - timedelta(seconds=LOST_NODE_GRACE + 1)
PODS = {
    "runs on a ready node": (pod(), True, Stage.PODS, None),
    "is stopping on a ready node, however long": (pod(deadline=LATE), True, Stage.PODS, None),
    "has finished": (pod(phase="Succeeded"), True, Stage.DONE, None),
    "was never placed": (pod(node=""), True, Stage.DONE, None),
    "runs on a silent node": (pod(), False, Stage.PODS, None),
    "is stopping on a silent node": (pod(deadline=NOW), False, Stage.PODS, LOST_NODE_GRACE),
    "should have stopped on a silent node": (pod(deadline=LATE), False, Stage.DONE, None),
    "was on a node that is gone": (pod(), None, Stage.DONE, None),
}


@pytest.mark.parametrize("case", PODS)
def test_a_pod_that(case: str, workspace: Any) -> None:
    found, ready, stage, wait = PODS[case]
    nodes = () if ready is None else (a_node(ready=ready),)
    plan = plan_deletion(observe(workspace, pods=(found,), nodes=nodes), ClaimApi.NODECLAIM, NOW)
    assert (plan.stage, plan.requeue_after) == (stage, wait)
    assert ("phi-0" in plan.message) == (stage is Stage.PODS)


def test_the_workload_goes_before_anything_is_waited_for(workspace: Any) -> None:
    job = msgspec.convert({"metadata": {"name": "phi", "namespace": "team", "uid": "j", **OWNED}}, Job)
    stranger = msgspec.convert({"metadata": {"name": "other", "namespace": "team", "uid": "s"}}, Job)
    observed = observe(
        workspace, jobs=(job, stranger), pods=(pod(),), claims=(claim("a"),), nodes=(a_node(ready=True),)
    )
    plan = plan_deletion(observed, ClaimApi.NODECLAIM, NOW)
    assert plan.stage is Stage.WORKLOAD
    assert [(step.key, step.uid) for step in plan.deletes] == [(Key("team", "phi"), "j")]


@pytest.mark.parametrize(("api", "kind"), [(ClaimApi.NODECLAIM, NodeClaim), (ClaimApi.MACHINE, Machine)])
def test_claims_are_asked_to_go_once_and_waited_for(workspace: Any, api: ClaimApi, kind: type) -> None:
    mine = (claim("a", kind=kind), claim("b", deleting=True, kind=kind), claim("c", "another uid", kind=kind))
    plan = plan_deletion(observe(workspace, claims=mine), api, NOW)
    assert plan.stage is Stage.CLAIMS
    assert [(step.resource.kind, step.key.name, step.uid) for step in plan.deletes] == [(kind.__name__, "a", "uid-a")]
    assert plan.reason == "WaitingForClaims"
    assert "2 " in plan.message
    assert "c" not in plan.message.split(": ")[1].split(".")[0]


def test_nothing_left(workspace: Any) -> None:
    assert plan_deletion(observe(workspace), ClaimApi.NODECLAIM, NOW).stage is Stage.DONE


def test_orphans_are_claims_of_a_dead_uid_only() -> None:
    claims = [claim("alive"), claim("dead", "gone"), claim("going", "gone", deleting=True), claim("foreign", "")]
    assert [found.key.name for found in orphans(claims, frozenset({UID}))] == ["dead"]
