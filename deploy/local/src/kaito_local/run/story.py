"""What a person should hear about a Workspace on its way: pure functions from what is observed to sentences.

A sentence is said once: the watcher drops those that it has said before.
"""

from collections.abc import Sequence

from kaito_api import labels
from kaito_api.conditions import (
    ClaimCondition,
    MachineConditionType,
    Reason,
    Status,
    WorkspaceCondition,
    find_condition,
    is_true,
)
from kaito_api.core.pod import ContainerStatus, Pod
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim
from kaito_api.report import Report, decode
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import TuningState, WorkspaceState
from kaito_local.errors import LocalError

Claim = NodeClaim | Machine
_LAUNCHED = {NodeClaim: ClaimCondition.LAUNCHED, Machine: MachineConditionType.LAUNCHED}

_HIDDEN_WAITS = frozenset({"", "ContainerCreating", "PodInitializing"})
_CONTAINERS = {
    "weights": "the container that fetches weights",
    "model-server": "the model server",
    "adapter-packager-check": "the check of the push rights",
    "tuner": "the tuner",
    "adapter-packager": "the adapter packager",
}
_PENDING = frozenset(
    {
        Reason.NODE_CLAIM_NOT_READY,
        Reason.NODE_NOT_READY,
        Reason.RESOURCE_NOT_READY,
        Reason.INFERENCE_PENDING,
        Reason.WEIGHTS_LOADING,
        Reason.ENGINE_STARTING,
        Reason.JOB_PENDING,
        Reason.PENDING,
    }
)
"""Reasons that say no more than that it takes its time; the claims and pods tell that in more detail."""


def sentences(workspace: Workspace | None, claims: Sequence[Claim], pods: Sequence[Pod]) -> list[str]:
    """Everything that can be said now, in the order in which it usually happens."""
    if workspace is None:
        return []
    return [*_plan(workspace), *_claims(claims), *_pods(pods), *_conditions(workspace)]


def is_ready(workspace: Workspace | None, pods: Sequence[Pod], image: str) -> bool:
    """Whether the Workspace serves, says so about its present spec, and does so with this build of the server.

    Just after an upgrade the status still speaks of the pods of the old build.
    """
    if workspace is None or not pods or not all(pod.ready and _runs(pod, image) for pod in pods):
        return False
    condition = find_condition(workspace.status.conditions, WorkspaceCondition.SUCCEEDED)
    if condition is None or condition.status != Status.TRUE:
        return False
    return condition.observed_generation in {None, 0, workspace.metadata.generation}


def is_trained(workspace: Workspace) -> bool:
    """Whether the tuning has succeeded. LocalError when it has failed."""
    if workspace.status.state == WorkspaceState.FAILED:
        raise LocalError(f"the tuning failed:\n{complaint(workspace, ())}")
    return workspace.status.state == WorkspaceState.SUCCEEDED


def complaint(workspace: Workspace | None, pods: Sequence[Pod]) -> str:
    """Why it is not ready yet, as far as status tells."""
    if workspace is None:
        return "the Workspace is gone"
    parts = [
        f"{condition.type}={condition.status} {condition.reason}: {condition.message}"
        for condition in workspace.status.conditions
        if condition.status != Status.TRUE
    ]
    if not workspace.status.conditions:
        parts.append("its status is empty: no controller has looked at it yet")
    parts += _pods(pods)
    return "\n".join(f"  {part}" for part in parts)


def _runs(pod: Pod, image: str) -> bool:
    return any(status.image == image for status in pod.status.container_statuses)


def _plan(workspace: Workspace) -> list[str]:
    plan = workspace.status.plan
    if plan is None or not plan.model:
        return []
    engine = f", engine {plan.engine.variant}" if plan.engine and plan.engine.variant else ""
    nodes = f"{plan.nodes} node" + ("" if plan.nodes == 1 else "s")
    return [f"the controller plans {plan.model} on {nodes} of type {plan.instance_type or 'your own'}{engine}"]


def _claims(claims: Sequence[Claim]) -> list[str]:
    said = []
    for claim in sorted(claims, key=lambda each: each.metadata.name):
        name = claim.metadata.name
        said.append(f"a node is asked for (claim {name})")
        conditions = claim.status.conditions
        if claim.status.node_name:
            said.append(f"the claim {name} has its machine: node {claim.status.node_name}")
        if is_true(conditions, ClaimCondition.READY):
            said.append(f"the node of claim {name} is ready")
        launched = find_condition(conditions, _LAUNCHED[type(claim)])
        if launched and launched.status == Status.FALSE:
            said.append(f"the claim {name} has no machine: {launched.reason}: {launched.message}")
    return said


def _pods(pods: Sequence[Pod]) -> list[str]:
    said = []
    for pod in sorted(pods, key=lambda each: each.metadata.name):
        name = pod.metadata.name
        scheduled = pod.condition("PodScheduled")
        if scheduled and scheduled.status == "False":
            said.append(f"pod {name} waits for a place: {scheduled.message}")
        if pod.spec.node_name:
            said.append(f"pod {name} is placed on node {pod.spec.node_name}")
        for status in [*pod.status.init_container_statuses, *pod.status.container_statuses]:
            said += _container(pod, status)
        if pod.ready:
            said.append(f"pod {name} is ready")
    return said


def _container(pod: Pod, status: ContainerStatus) -> list[str]:
    what = _CONTAINERS.get(status.name, f"container {status.name}")
    said = []
    state = status.state
    if state.waiting and state.waiting.reason not in _HIDDEN_WAITS:
        said.append(f"{what} cannot start: {state.waiting.reason}: {state.waiting.message}")
    said += [
        f"{what} ended with status {ended.exit_code}: {_last_words(ended.message) or ended.reason}"
        for ended in (state.terminated, status.last_state.terminated)
        if ended and ended.exit_code
    ]
    if status.restart_count:
        said.append(f"{what}: restart number {status.restart_count}")
    report = decode(pod.metadata.annotations.get(labels.report_annotation(status.name), ""))
    if report:
        said += _report(what, report)
    elif state.running:
        said.append(f"{what} has started")
    return said


def _report(what: str, report: Report) -> list[str]:
    if report.state == "Failed":
        return [f"{what} failed: {report.reason}: {report.message}"]
    engine = report.engine
    words = report.message or (f"vLLM {engine.version} on the {engine.device}, {engine.dtype}" if engine else "")
    return [f"{what}: {report.state.lower()}" + (f" ({words})" if words else "")]


def _last_words(message: str) -> str:
    report = decode(message)
    return f"{report.reason}: {report.message}" if report else message.strip()[-300:]


def _tuning(workspace: Workspace) -> list[str]:
    tuning = workspace.status.tuning
    if tuning is None or tuning.state != TuningState.TRAINING or not tuning.loss:
        return []
    speed = f", {tuning.tokens_per_second} tokens/s" if tuning.tokens_per_second else ""
    left = f", {tuning.eta_seconds} s left" if tuning.eta_seconds is not None else ""
    return [f"training: {tuning.progress}, loss {tuning.loss}{speed}{left}"]


def _conditions(workspace: Workspace) -> list[str]:
    said = _tuning(workspace)
    for condition in workspace.status.conditions:
        words = condition.message or condition.reason
        if condition.type == WorkspaceCondition.JOB_STARTED and condition.status == Status.TRUE:
            continue  # it repeats the tuner's own words and figures
        if condition.status == Status.TRUE:
            said.append(f"{condition.type}: {words}")
        elif condition.reason not in _PENDING:
            said.append(f"{condition.type} is {condition.status}: {condition.reason}: {words}")
    return said
