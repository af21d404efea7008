"""The way of a Workspace as steps: whose times they are, and what is left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from kaito_api.core import Node, Pod
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace
from workspace_controller.journey import Step, journey
from workspace_controller.observed import Observed

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UID = "5f0e6b9a-0000-4000-8000-000000000001"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def conditions(**reached: float) -> list[dict[str, Any]]:
    return [{"type": type_, "status": "True", "lastTransitionTime": at(when)} for type_, when in reached.items()]


def workspace(kind: str = "inference") -> Workspace:
    parts = {
        "inference": {"preset": {"name": "phi-4"}},
        "tuning": {"preset": {"name": "phi-4"}, "method": "lora", "input": {"image": "i"}, "output": {"image": "o"}},
    }
    resource = {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "phi"}}}
    metadata = {"name": "phi", "namespace": "team", "uid": UID, "creationTimestamp": START}
    return msgspec.convert({"metadata": metadata, "resource": resource, kind: parts[kind]}, Workspace)


def claim(kind: type[NodeClaim | Machine] = NodeClaim, uid: str = UID, **reached: float) -> Any:
    status = {"nodeName": "node-a", "providerID": "azure:///a", "conditions": conditions(**reached)}
    annotations = {"kaito.sh/workspace-uid": uid, "kaito.sh/claim-attempt": "1"}
    metadata = {"name": "wa", "creationTimestamp": at(1), "annotations": annotations}
    return msgspec.convert({"metadata": metadata, "spec": {}, "status": status}, kind)


def node(**reached: float) -> Node:
    metadata = {"name": "node-a", "creationTimestamp": at(90)}
    return msgspec.convert({"metadata": metadata, "status": {"conditions": conditions(**reached)}}, Node)


def pod(init: dict[str, Any], main: dict[str, Any], **reached: float) -> Pod:
    metadata = {"name": "phi-0", "namespace": "team", "uid": "u", "creationTimestamp": at(121)}
    status = {
        "conditions": conditions(**reached),
        "initContainerStatuses": [{"name": name, "state": state} for name, state in init.items()],
        "containerStatuses": [{"name": name, "state": state} for name, state in main.items()],
    }
    return msgspec.convert({"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": status}, Pod)


def running(start: float) -> dict[str, Any]:
    return {"running": {"startedAt": at(start)}}


def ended(start: float, end: float) -> dict[str, Any]:
    return {"terminated": {"exitCode": 0, "startedAt": at(start), "finishedAt": at(end)}}


def told(steps: tuple[Step, ...]) -> list[str]:
    """One line for each step, in seconds after the Workspace's creation."""
    return [
        f"{step.path} {(step.start - START).total_seconds():g}..{(step.end - START).total_seconds():g}"
        for step in steps
    ]


CLAIMED = {"Launched": 60, "Registered": 95, "Initialized": 118, "Ready": 118}
SERVING = pod({"weights": ended(131, 170)}, {"model-server": running(171)}, PodScheduled=122, Ready=240)
CASES: dict[str, tuple[Observed, list[str]]] = {
    "a claim, its node, and a pod that serves": (
        Observed(workspace=workspace(), claims=(claim(**CLAIMED),), nodes=(node(Ready=110),), pods=(SERVING,)),
        [
            "workspace 0..241",
            "workspace/claim:wa 1..118",
            "workspace/claim:wa/launch 1..60",
            "workspace/claim:wa/register 60..95",
            "workspace/claim:wa/initialize 95..118",
            "workspace/claim:wa/node 90..110",
            "workspace/pod:phi-0 121..240",
            "workspace/pod:phi-0/schedule 121..122",
            "workspace/pod:phi-0/start 122..131",
            "workspace/pod:phi-0/container:weights 131..170",
            "workspace/pod:phi-0/container:model-server 171..240",
        ],
    ),
    "a Machine": (
        Observed(
            workspace=workspace(),
            claims=(claim(Machine, MachineLaunched=9, MachineRegistered=10, MachineInitialized=11, Ready=11),),
        ),
        [
            "workspace 0..241",
            "workspace/claim:wa 1..11",
            "workspace/claim:wa/launch 1..9",
            "workspace/claim:wa/register 9..10",
            "workspace/claim:wa/initialize 10..11",
        ],
    ),
    "a tuning's pod ends with its last container": (
        Observed(
            workspace=workspace("tuning"),
            pods=(pod({"tuner": ended(130, 200)}, {"adapter-packager": ended(201, 230)}, PodScheduled=122),),
        ),
        [
            "workspace 0..241",
            "workspace/pod:phi-0 121..230",
            "workspace/pod:phi-0/schedule 121..122",
            "workspace/pod:phi-0/start 122..130",
            "workspace/pod:phi-0/container:tuner 130..200",
            "workspace/pod:phi-0/container:adapter-packager 201..230",
        ],
    ),
    "clocks that differ: nothing ends before it begins": (
        Observed(workspace=workspace(), claims=(claim(Launched=-5, Registered=-9, Initialized=7, Ready=7),)),
        [
            "workspace 0..241",
            "workspace/claim:wa 1..7",
            "workspace/claim:wa/launch 1..1",
            "workspace/claim:wa/register 1..1",
            "workspace/claim:wa/initialize 1..7",
        ],
    ),
    "the user's own node is no part of the way, nor a namesake's claim": (
        Observed(workspace=workspace(), claims=(claim(uid="other", **CLAIMED),), nodes=(node(Ready=110),)),
        ["workspace 0..241"],
    ),
    "a claim and a pod of which nothing is known yet": (
        Observed(workspace=workspace(), claims=(claim(Launched=60),), pods=(pod({}, {"model-server": {}}),)),
        ["workspace 0..241"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    observed, expected = CASES[case]
    steps = journey(observed, at(241.9))
    assert told(steps) == expected
    assert [step.parent for step in steps] == [path.rpartition("/")[0] for path in (step.path for step in steps)]


def test_what_the_steps_say_about_themselves() -> None:
    observed, _ = CASES["a claim, its node, and a pod that serves"]
    by_name = {step.name: step.attributes for step in journey(observed, at(241))}
    assert by_name["workspace"] == {
        "k8s.namespace.name": "team",
        "kaito.workspace.name": "phi",
        "kaito.workspace.uid": UID,
        "kaito.workspace.kind": "inference",
        "kaito.workspace.pods": 1,
        "gen_ai.request.model": "phi-4",
        "host.type": "Standard_NC24ads_A100_v4",
    }
    assert by_name["claim"]["kaito.claim.attempt"] == "1"
    assert by_name["claim"]["cloud.resource_id"] == "azure:///a"
    assert by_name["pod"] == {"k8s.pod.name": "phi-0", "k8s.pod.uid": "u", "k8s.node.name": "node-a"}
    assert by_name["launch"] == {}


def test_nothing_is_told_of_a_workspace_without_a_beginning() -> None:
    found = workspace()
    metadata = msgspec.structs.replace(found.metadata, creation_timestamp=None)
    assert journey(Observed(workspace=msgspec.structs.replace(found, metadata=metadata)), at(1)) == ()
