"""Parts of the status that the stories do not walk through: rollouts, adapters, phases, errors, the merge patch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Pod, StatefulSet
from kaito_api.meta import Condition
from kaito_api.nodeclaim import NodeClaim
from kaito_api.report import AdapterReport, EngineReport, Report, encode
from kaito_api.workspace import AdapterSpec
from kaito_api.workspace_status import CostEstimate, EnginePlan, PhaseStatus, PlanStatus, WorkspaceStatus
from workspace_controller.claims import views
from workspace_controller.nodes import Blocked, NodePlan
from workspace_controller.status import with_error
from workspace_controller.status.adapters import fold_adapters, judge_adapters
from workspace_controller.status.facts import with_facts
from workspace_controller.status.finding import Finding
from workspace_controller.status.inference import judge_inference
from workspace_controller.status.patch import status_patch
from workspace_controller.status.phases import time_phases
from workspace_controller.status.resource import judge_resources

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
READY = Finding(ok=True, reason="workspaceResourceStatusSuccess", message="")
UNREADY = Finding(ok=False, reason="NodeNotReady", message="node lost")


def workload(generation: int = 2, replicas: int = 1, **status: Any) -> StatefulSet:
    content = {"observedGeneration": 2, "readyReplicas": replicas, "updatedReplicas": replicas, **status}
    metadata = {"name": "phi", "generation": generation}
    return msgspec.convert({"metadata": metadata, "spec": {"replicas": replicas}, "status": content}, StatefulSet)


def pod(name: str = "phi-0", *, ready: bool = False, report: Report | None = None, **status: Any) -> Pod:
    annotations = {labels.report_annotation("model-server"): encode(report).decode()} if report is not None else {}
    conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": NOW}]
    conditions += status.pop("conditions", [])
    metadata = {"name": name, "annotations": annotations}
    return msgspec.convert({"metadata": metadata, "status": {"conditions": conditions, **status}}, Pod)


INFERENCE = {
    "serves": (workload(), [pod(ready=True)], READY, True, "WorkspaceInferenceStatusSuccess"),
    "serves as far as the StatefulSet says": (workload(), [], READY, True, "WorkspaceInferenceStatusSuccess"),
    "a pod says otherwise first": (workload(), [pod()], READY, False, "WorkspaceInferenceStatusPending"),
    "nodes are lost": (workload(), [pod(ready=True)], UNREADY, False, "NodeNotReady"),
    "counts are of an older spec": (workload(3), [pod(ready=True)], READY, False, "WorkspaceInferenceStatusPending"),
    "one of two": (workload(replicas=2, readyReplicas=1), [], READY, False, "WorkspaceInferenceStatusPending"),
    "old pods are ready, new ones to come": (
        workload(replicas=2, updatedReplicas=1, currentRevision="a", updateRevision="b"),
        [],
        READY,
        False,
        "WorkspaceInferenceStatusPending",
    ),
    "loading": (
        workload(readyReplicas=0),
        [pod(report=Report(state="Loading", at=NOW))],
        READY,
        False,
        "EngineStarting",
    ),
    "pulling": (
        workload(readyReplicas=0),
        [pod(report=Report(state="Pulling", at=NOW))],
        READY,
        False,
        "WeightsLoading",
    ),
    "not there": (None, [], READY, False, "WorkspaceInferenceStatusPending"),
}


@pytest.mark.parametrize("case", INFERENCE)
def test_inference(case: str) -> None:
    statefulset, pods, resource, ok, reason = INFERENCE[case]
    found = judge_inference(statefulset, 1, pods, [], resource)
    assert (found.ok, found.reason) == (ok, reason)


def test_a_slot_that_failed_for_good_is_not_ready_because_the_others_are() -> None:
    plan = NodePlan(
        target_count=2,
        claims=("a",),
        worker_nodes=("n",),
        blocked=Blocked(reason=Reason.NODE_CLAIM_NOT_READY, message="no machine for 1 of 2 node(s)"),
    )
    metadata = {"name": "a", "uid": "u"}
    given = {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    claim = msgspec.convert({"metadata": metadata, "spec": given, "status": status}, NodeClaim)
    found = judge_resources(plan, views([claim]), [])
    assert found.claims is not None
    assert (found.claims.ok, found.resource.ok) == (False, False)
    assert "no machine for 1 of 2" in found.resource.message


def spec(name: str) -> AdapterSpec:
    return msgspec.convert({"source": {"name": name, "image": f"registry.local/{name}:1"}}, AdapterSpec)


def serving(*adapters: AdapterReport) -> Pod:
    return pod(ready=True, report=Report(state="Ready", at=NOW, engine=EngineReport(), adapters=list(adapters)))


def test_adapters_are_the_spec_s_then_what_drains() -> None:
    reported = (
        AdapterReport(name="b", image="registry.local/b:1", state="Ready", digest="sha256:1", load_seconds=0.25),
        AdapterReport(name="old", state="Draining"),
        AdapterReport(name="c", state="Invented"),
    )
    found = fold_adapters([spec("a"), spec("b"), spec("c")], [serving(*reported)])
    assert [(a.name, a.state, a.load_milliseconds) for a in found] == [
        ("a", "Pending", 0),
        ("b", "Ready", 250),
        ("c", "Pending", 0),
        ("old", "Draining", 0),
    ]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], None),
        (["Ready", "Ready"], (True, "AdaptersReady")),
        (["Ready", "Loading"], (False, "AdaptersPending")),
        (["Failed", "Loading"], (False, "AdapterFailed")),
    ],
)
def test_adapters_condition(states: list[str], expected: tuple[bool, str] | None) -> None:
    specs = [spec(str(number)) for number in range(len(states))]
    reports = [
        AdapterReport(name=name, image=f"registry.local/{name}:1", state=state)
        for name, state in zip(map(str, range(len(states))), states, strict=True)
    ]
    found = judge_adapters(specs, fold_adapters(specs, [serving(*reports)]))
    assert (found and (found.ok, found.reason)) == expected


def replica(number: int, state: str = "Ready") -> Pod:
    entry = AdapterReport(name="a", image="registry.local/a:1", state=state, strength="1", digest="sha256:1")
    return pod(f"phi-{number}", ready=True, report=Report(state="Ready", at=NOW, adapters=[entry]))


def test_only_pod_zero_counts_where_a_model_spans_nodes() -> None:
    (found,) = fold_adapters([spec("a")], [replica(1, "Failed"), replica(0)], spans_nodes=True)
    assert (found.state, found.pods, found.ready_pods) == ("Ready", 1, 1)


@pytest.mark.parametrize(
    ("odd", "state", "ready", "words"),
    [
        ({}, "Ready", 10, ""),
        ({"state": "Failed", "reason": "WrongBaseModel", "message": "no"}, "Failed", 9, "phi-7: no"),
        ({"state": "Loading"}, "Loading", 9, ""),
        ({"strength": "0.5"}, "Loading", 9, ""),
        ({"strength": "sNaN"}, "Loading", 9, ""),
        ({"image": "registry.local/a:0"}, "Loading", 9, ""),
        ({"digest": "sha256:2"}, "Loading", 10, "different contents"),
        ({"name": "b"}, "Pending", 9, ""),
    ],
)
def test_ten_pods_are_ready_together(odd: dict[str, Any], state: str, ready: int, words: str) -> None:
    entries = [AdapterReport(name="a", image="registry.local/a:1", state="Ready", strength="1", digest="sha256:1")] * 10
    entries[7] = msgspec.structs.replace(entries[7], **odd)
    pods = [
        pod(f"phi-{number}", report=Report(state="Ready", at=NOW, adapters=[entry]))
        for number, entry in enumerate(entries)
    ]
    found = fold_adapters([spec("a")], pods)[0]
    assert (found.state, found.pods, found.ready_pods) == (state, 10, ready)
    assert words in found.message


def test_what_the_init_container_found_shows_until_the_server_speaks() -> None:
    refused = AdapterReport(name="a", state="Failed", reason="RankTooHigh", message="too high")
    early = pod("phi-0")
    text = encode(Report(state="Pulling", at=NOW, adapters=[refused])).decode()
    early.metadata.annotations[labels.report_annotation("weights")] = text
    assert fold_adapters([spec("a")], [early])[0].reason == "RankTooHigh"


def test_the_plan_shows_what_the_engine_runs_with() -> None:
    plan = PlanStatus(engine=EnginePlan(dtype="bfloat16", max_model_len=4096))
    said = Report(state="Ready", at=NOW, engine=EngineReport(dtype="float16", max_model_len=2048))
    shown = with_facts(plan, [pod(report=said)])
    assert shown is not None
    assert shown.engine == EnginePlan(dtype="float16", max_model_len=2048)
    assert with_facts(plan, [pod()]) == plan
    assert with_facts(None, []) is None


def test_phases_end_once(workspace: Any) -> None:
    created = NOW - timedelta(minutes=5)
    base = msgspec.structs.replace(
        workspace(), metadata=msgspec.structs.replace(workspace().metadata, creation_timestamp=created)
    )
    resource_ready = [Condition(type="ResourceReady", status="True", last_transition_time=NOW)]
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": NOW}
    started = {"name": "model-server", "state": {"running": {"startedAt": NOW + timedelta(seconds=9)}}}
    up = pod(ready=True, conditions=[scheduled], containerStatuses=[started])
    first = time_phases(base, resource_ready, [up])
    assert [(p.name, p.finished_at is not None) for p in first] == [("Nodes", True), ("Images", True), ("Engine", True)]
    again = {"name": "model-server", "state": {"running": {"startedAt": NOW + timedelta(hours=1)}}}
    later = msgspec.structs.replace(base, status=WorkspaceStatus(phases=first))
    assert time_phases(later, resource_ready, [pod(conditions=[scheduled], containerStatuses=[again])]) == first
    assert time_phases(later, resource_ready, []) == first


def test_an_error_is_told_once_and_never_leaves_success_standing() -> None:
    succeeded = Condition(
        type="WorkspaceSucceeded", status="True", reason="workspaceSucceeded", message="The model serves."
    )
    serves = WorkspaceStatus(conditions=[succeeded])
    told = with_error(serves, serves, "403 no\nrights", "WriteRefused", 4, NOW)
    (condition,) = told.conditions
    assert (condition.status, condition.reason, condition.observed_generation) == ("False", "WriteRefused", 4)
    assert condition.message == "(last reconcile error: 403 no rights)"
    waiting = Condition(type="WorkspaceSucceeded", status="False", reason="workspacePending", message="Waiting.")
    waits = WorkspaceStatus(conditions=[waiting])
    (condition,) = with_error(waits, waits, "x", "WriteRefused", 4, NOW).conditions
    assert condition.message == "Waiting. (last reconcile error: x)"


def test_an_error_that_stays_while_the_model_serves_is_written_once() -> None:
    """What the plan would say without the error turns True each time; what is stored stays False since the first time."""
    serves = Condition(type="WorkspaceSucceeded", status="True", reason="workspaceSucceeded", last_transition_time=NOW)
    planned = WorkspaceStatus(conditions=[serves])
    first = with_error(planned, planned, "403 no", "WriteRefused", 4, NOW)
    later = NOW + timedelta(minutes=2)
    turned = Condition(
        type="WorkspaceSucceeded", status="True", reason="workspaceSucceeded", last_transition_time=later
    )
    assert with_error(WorkspaceStatus(conditions=[turned]), first, "403 no", "WriteRefused", 4, later) == first


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


plans = st.builds(
    PlanStatus,
    model=st.sampled_from(["", "phi"]),
    nodes=st.integers(0, 2),
    cost=st.none() | st.builds(CostEstimate, per_hour=st.sampled_from(["", "1"]), as_of=st.sampled_from(["", "x"])),
)
phases = st.builds(PhaseStatus, name=st.just("Nodes"), started_at=st.just(NOW), finished_at=st.none() | st.just(NOW))
states = st.builds(
    WorkspaceStatus,
    state=st.sampled_from(["", "Ready"]),
    worker_nodes=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    plan=st.none() | plans,
    phases=st.lists(phases, max_size=1),
    target_node_count=st.integers(0, 1),
)


@given(states, states)
def test_the_patch_turns_one_status_into_the_other(old: WorkspaceStatus, new: WorkspaceStatus) -> None:
    result = merged(msgspec.to_builtins(old), status_patch(old, new))
    assert msgspec.convert(result, WorkspaceStatus) == new
    assert status_patch(new, new) == {}
