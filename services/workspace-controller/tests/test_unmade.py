"""Workloads that make no pod: when it is told, what the conditions say then, and that somebody looks again in time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kaito_api.conditions import find_condition
from kaito_api.core import Job, Node, Pod, StatefulSet
from kaito_api.resources import JOBS, STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.decision import Decision
from workspace_controller.observed import ChildId, Observed
from workspace_controller.plan import plan
from workspace_controller.settings import Settings
from workspace_controller.status.unmade import GRACE, unmade
from workspace_controller.tuning.run import present_run

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(minutes=5)
BROUGHT = "{resource: {instanceType: null}}"
TRAINS = """
resource: {instanceType: null}
inference: null
tuning:
  preset: {name: phi-3-mini-4k-instruct}
  method: lora
  input: {urls: ['https://data.example/a.jsonl']}
  output: {image: 'registry.example/adapter:1', imagePushSecret: push}
"""


def metadata(workspace: Workspace, **more: Any) -> dict[str, Any]:
    owner = {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "name": "phi", "uid": workspace.metadata.uid}
    meta = {"name": "phi", "namespace": "team", "uid": "workload", "creationTimestamp": NOW, "generation": 1}
    return {**meta, "ownerReferences": [{**owner, "controller": True}], **more}


def statefulset(workspace: Workspace, *, replicas: int = 1, made: int = 0, **more: Any) -> StatefulSet:
    status = {"observedGeneration": 1, "replicas": made}
    content = {"metadata": metadata(workspace, **more), "spec": {"replicas": replicas}, "status": status}
    return msgspec.convert(content, StatefulSet)


def job(workspace: Workspace, *, spec: dict[str, Any] | None = None, **status: Any) -> Job:
    return msgspec.convert({"metadata": metadata(workspace), "spec": spec or {}, "status": status}, Job)


def pod(uid: str = "workload") -> Pod:
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "phi", "uid": uid, "controller": True}
    return msgspec.convert({"metadata": {"name": "phi-0", "ownerReferences": [owner]}}, Pod)


def since(workspace: Workspace, type_: str, at: datetime) -> Workspace:
    stored = [{"type": type_, "status": "False", "reason": "x", "message": "", "lastTransitionTime": at}]
    status = msgspec.convert({"conditions": stored}, type(workspace.status))
    return msgspec.structs.replace(workspace, status=status)


FAILED = {"conditions": [{"type": "Failed", "status": "True"}]}
WORKLOADS: dict[str, tuple[Callable[[Workspace], Any], list[Pod], bool]] = {
    "nothing stands": (lambda _: None, [], False),
    "a StatefulSet without a pod": (statefulset, [], True),
    "one with a pod": (statefulset, [pod()], False),
    "one beside another's pod": (statefulset, [pod("other")], True),
    "one that has counted its pod": (lambda w: statefulset(w, made=1), [], False),
    "one that goes": (lambda w: statefulset(w, deletionTimestamp=NOW), [], False),
    "a Job without a pod": (job, [], True),
    "one whose pod is on its way": (lambda w: job(w, active=1), [], False),
    "one whose pod has failed": (job, [pod()], False),
    "one that has failed": (lambda w: job(w, **FAILED), [], False),
    "one that is suspended": (lambda w: job(w, spec={"suspend": True}), [], False),
}


@pytest.mark.parametrize("case", WORKLOADS)
def test_a_workload_lacks_its_pod(workspace: Any, case: str) -> None:
    make, pods, expected = WORKLOADS[case]
    assert (unmade(workspace(), make(workspace()), pods) is not None) == expected


@pytest.mark.parametrize(("turned", "ends"), [(EARLIER, NOW + GRACE), (NOW + GRACE, NOW + 2 * GRACE)])
def test_a_pod_that_is_made_anew_has_its_time_too(workspace: Any, turned: datetime, ends: datetime) -> None:
    found = unmade(since(workspace(), "InferenceReady", turned), statefulset(workspace()), [])
    assert found is not None
    assert found.grace_ends == ends


def decided(workspace: Workspace, workload: Any, node: Node, catalog: Catalog, now: datetime) -> Decision:
    plural = JOBS.plural if isinstance(workload, Job) else STATEFULSETS.plural
    observed = Observed(workspace=workspace, nodes=(node,), children={ChildId(plural, "phi"): workload})
    if workspace.tuning is not None:
        name = present_run(observed).name
        annotations = {"kaito.sh/tuning-run": name}
        replaced = msgspec.structs.replace(workload.metadata, annotations=annotations)
        children = {ChildId(plural, "phi"): msgspec.structs.replace(workload, metadata=replaced)}
        observed = msgspec.structs.replace(observed, children=children)
    return plan(observed, catalog, Settings(), now)


@pytest.mark.parametrize(
    ("changes", "make", "type_", "words"),
    [
        (BROUGHT, statefulset, "InferenceReady", "kubectl -n team describe statefulset phi says why"),
        (TRAINS, job, "JobStarted", "kubectl -n team describe job phi says why"),
    ],
)
def test_it_is_told_after_a_grace(
    workspace: Any, node: Any, catalog: Catalog, changes: str, make: Any, type_: str, words: str
) -> None:
    wanted = workspace(changes)
    ready = node("a", {"apps": "phi", "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"})
    early = decided(wanted, make(wanted), ready, catalog, NOW + timedelta(seconds=10))
    assert early.status is not None
    assert early.requeue_after == GRACE.total_seconds() - 10
    assert all(words not in condition.message for condition in early.status.conditions)
    late = decided(wanted, make(wanted), ready, catalog, NOW + GRACE)
    assert late.status is not None
    assert late.requeue_after is None
    for told in (type_, "WorkspaceSucceeded"):
        condition = find_condition(late.status.conditions, told)
        assert condition is not None
        assert condition.status == "False"
        assert words in condition.message
