"""Pure: the way of a Workspace from `kubectl apply` to its aim, as steps with a beginning and an end.

Everything is read from the objects as they stand when the aim is reached: creation times and the transition times of conditions,
which Kubernetes keeps in whole seconds. So any replica that looks tells the same way, and nothing has to be remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import ClaimCondition, MachineConditionType, Status, find_condition
from kaito_api.core import ContainerStatus, Node, Pod
from kaito_api.machine import Machine
from kaito_api.meta import whole_seconds
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import WorkspaceState, WorkspaceStatus
from workspace_controller.claims import Claim
from workspace_controller.observed import Observed

Attributes = Mapping[str, str | int]
"""By OpenTelemetry's semantic conventions where they have a name for it, else below `kaito.`."""

_ROOT: Final = "workspace"
_NODECLAIM_STEPS: Final = (
    ("launch", ClaimCondition.LAUNCHED),
    ("register", ClaimCondition.REGISTERED),
    ("initialize", ClaimCondition.INITIALIZED),
)
_MACHINE_STEPS: Final = (
    ("launch", MachineConditionType.LAUNCHED),
    ("register", MachineConditionType.REGISTERED),
    ("initialize", MachineConditionType.INITIALIZED),
)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One span."""

    name: str
    path: str
    """Tells it from the others of its Workspace, and is the same whenever it is derived: workspace/pod:phi-0/schedule."""
    parent: str
    """Path of the step that it is part of; "" for the whole way."""
    start: datetime
    end: datetime
    attributes: Attributes = {}


def first_success(before: WorkspaceStatus, after: WorkspaceStatus) -> bool:
    """Whether the Workspace has reached its aim now and never before: a state of NotReady has served already."""
    aims = {WorkspaceState.READY, WorkspaceState.SUCCEEDED}
    return after.state in aims and before.state not in {*aims, WorkspaceState.NOT_READY}


def journey(observed: Observed, done: datetime) -> tuple[Step, ...]:
    """Return the steps of a Workspace that reached its aim at `done`, the whole way first.

    Empty for a Workspace without a creation time. Nodes that the user brought are no part of the way.
    """
    workspace = observed.workspace
    created = workspace.metadata.creation_timestamp
    if created is None:
        return ()
    uid = workspace.metadata.uid
    claims = [
        claim
        for claim in sorted(observed.claims, key=lambda claim: claim.metadata.name)
        if claim.metadata.annotations.get(labels.WORKSPACE_UID, uid) == uid and not claim.metadata.deleting
    ]
    nodes = {node.metadata.name: node for node in observed.nodes}
    pods = sorted((pod for pod in observed.pods if not pod.metadata.deleting), key=lambda pod: pod.metadata.name)
    steps = [_step(_ROOT, _ROOT, created, whole_seconds(done), _about(workspace, pods))]
    for claim in claims:
        steps += _claim(claim, nodes.get(claim.status.node_name))
    for pod in pods:
        steps += _pod(pod)
    return tuple(steps)


def _about(workspace: Workspace, pods: Sequence[Pod]) -> Attributes:
    part = workspace.inference or workspace.tuning
    preset = part.preset if part is not None else None
    attributes: dict[str, str | int] = {
        "k8s.namespace.name": workspace.metadata.namespace,
        "kaito.workspace.name": workspace.metadata.name,
        "kaito.workspace.uid": workspace.metadata.uid,
        "kaito.workspace.kind": "tuning" if workspace.tuning is not None else "inference",
        "kaito.workspace.pods": len(pods),
    }
    if preset is not None:
        attributes["gen_ai.request.model"] = preset.name
    if workspace.resource is not None and workspace.resource.instance_type:
        attributes["host.type"] = workspace.resource.instance_type
    return attributes


def _claim(claim: Claim, node: Node | None) -> Iterator[Step]:
    """Yield the claim, its steps one after the other, and its node."""
    created = claim.metadata.creation_timestamp
    ready = find_condition(claim.status.conditions, ClaimCondition.READY)
    if created is None or ready is None or ready.status != Status.TRUE or ready.last_transition_time is None:
        return
    path = f"{_ROOT}/claim:{claim.metadata.name}"
    attributes: dict[str, str | int] = {
        "kaito.claim.name": claim.metadata.name,
        "kaito.claim.kind": "Machine" if isinstance(claim, Machine) else "NodeClaim",
        "kaito.claim.attempt": claim.metadata.annotations.get(labels.CLAIM_ATTEMPT, "0"),
        "k8s.node.name": claim.status.node_name,
        "cloud.resource_id": claim.status.provider_id,
    }
    yield _step("claim", path, created, ready.last_transition_time, attributes)
    since = created
    for name, type_ in _MACHINE_STEPS if isinstance(claim, Machine) else _NODECLAIM_STEPS:
        reached = find_condition(claim.status.conditions, type_)
        if reached is None or reached.status != Status.TRUE or reached.last_transition_time is None:
            return
        yield _step(name, f"{path}/{name}", since, reached.last_transition_time)
        since = max(since, reached.last_transition_time)
    if node is not None:
        yield from _node(node, path)


def _node(node: Node, parent: str) -> Iterator[Step]:
    """Yield the time from the node's registration until kubelet called it ready."""
    created, ready = node.metadata.creation_timestamp, node.condition("Ready")
    if created is not None and ready is not None and ready.status == "True" and ready.last_transition_time is not None:
        attributes = {"k8s.node.name": node.metadata.name}
        yield _step("node", f"{parent}/node", created, ready.last_transition_time, attributes)


def _pod(pod: Pod) -> Iterator[Step]:
    """Yield the pod, its way to a node, to its first container, and each container.

    A pod that serves ends with its readiness, one that has done its work with its last container.
    """
    created, scheduled, ready = pod.metadata.creation_timestamp, pod.condition("PodScheduled"), pod.condition("Ready")
    if created is None:
        return
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    runs = {status.name: run for status in statuses if (run := _run(status)) is not None}
    serves = ready.last_transition_time if ready is not None and ready.status == "True" else None
    ends = [end or serves for _, end in runs.values()]
    end = serves or max((some for some in ends if some is not None), default=None)
    if end is None:
        return
    path = f"{_ROOT}/pod:{pod.metadata.name}"
    attributes = {
        "k8s.pod.name": pod.metadata.name,
        "k8s.pod.uid": pod.metadata.uid,
        "k8s.node.name": pod.spec.node_name,
    }
    yield _step("pod", path, created, end, attributes)
    if scheduled is not None and scheduled.status == "True" and scheduled.last_transition_time is not None:
        yield _step("schedule", f"{path}/schedule", created, scheduled.last_transition_time)
        if runs:
            first = min(start for start, _ in runs.values())
            yield _step("pull and mount", f"{path}/start", scheduled.last_transition_time, first)
    for name, (start, finish) in runs.items():
        until = finish or serves
        if until is not None:
            attributes = {"k8s.container.name": name}
            yield _step(f"container {name}", f"{path}/container:{name}", start, until, attributes)


def _run(status: ContainerStatus) -> tuple[datetime, datetime | None] | None:
    """Return when the container's present run began, and when it ended."""
    if status.state.running is not None and status.state.running.started_at is not None:
        return status.state.running.started_at, None
    ended = status.state.terminated
    if ended is not None and ended.started_at is not None:
        return ended.started_at, ended.finished_at
    return None


def _step(name: str, path: str, start: datetime, end: datetime, about: Attributes | None = None) -> Step:
    """Return the step, which is part of the one above it.

    The clocks of apiserver, kubelet and provisioner may differ: none ends before it begins.
    """
    parent = path.rpartition("/")[0]
    kept = {key: value for key, value in (about or {}).items() if value != ""}
    return Step(name=name, path=path, parent=parent, start=start, end=max(start, end), attributes=kept)
