"""Puts the findings of the parts together into one WorkspaceStatus.

A condition keeps its transition time while its status stays, and a status in which nothing differs comes back equal, so
that the caller writes only what is news.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from kaito_api.conditions import Reason, Status, WorkspaceCondition, find_condition, set_condition
from kaito_api.meta import Condition
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import PlanStatus, WorkspaceState, WorkspaceStatus
from workspace_controller.claims import views
from workspace_controller.decision import Obstacle
from workspace_controller.deletion import DeletionPlan
from workspace_controller.failures import cut, diagnose, sentence
from workspace_controller.nodes import NodePlan
from workspace_controller.observed import Observed
from workspace_controller.status.adapters import fold_adapters, judge_adapters
from workspace_controller.status.facts import with_facts
from workspace_controller.status.finding import Finding
from workspace_controller.status.inference import judge_inference
from workspace_controller.status.job import judge_job
from workspace_controller.status.keys import key_wait
from workspace_controller.status.phases import time_phases
from workspace_controller.status.resource import ResourceFindings, judge_resources, obstructed
from workspace_controller.status.tuning import fold_tuning, scene
from workspace_controller.status.unmade import unmade
from workspace_controller.tuning.run import Run

_ERROR_LIMIT: Final = 1024


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan found out, for the report."""

    observed: Observed
    nodes: NodePlan | None = None
    """None where no nodes could be planned."""
    obstacle: Obstacle | None = None
    """The first thing that stops the plan, if any."""
    plan: PlanStatus | None = None
    adapters_held: str = ""
    """What about the adapters waits for a restart that nobody allowed, in words."""
    run: Run | None = None
    """Of a tuning Workspace: the request that its Job is for."""
    deletion: DeletionPlan | None = None


def compose(situation: Situation, now: datetime) -> WorkspaceStatus:
    """Return the whole status; equal to the stored one where nothing changed."""
    if situation.deletion is not None:
        return _deleting(situation.observed, situation.deletion, now)
    if situation.observed.workspace.tuning is not None:
        return _tuning(situation, now)
    return _inference(situation, now)


def with_error(  # noqa: PLR0917 - what is planned and what stands, the error, then when
    status: WorkspaceStatus, stored: WorkspaceStatus, error: str, reason: str, generation: int, now: datetime
) -> WorkspaceStatus:
    """Return `status` whose WorkspaceSucceeded is False for `reason` and ends with what failed.

    It turned False when the `stored` one did: an error that is met again is no news.
    """
    planned = find_condition(status.conditions, WorkspaceCondition.SUCCEEDED)
    told = "" if planned is None or planned.status == Status.TRUE else planned.message
    suffix = cut(f"(last reconcile error: {' '.join(error.split())})", _ERROR_LIMIT)
    failed = Finding(ok=False, reason=reason, message=f"{told} {suffix}".strip())
    condition = failed.condition(WorkspaceCondition.SUCCEEDED, generation)
    known = find_condition(stored.conditions, WorkspaceCondition.SUCCEEDED)
    conditions = [known if each is planned and known is not None else each for each in status.conditions]
    return msgspec.structs.replace(status, conditions=set_condition(conditions, condition, now))


def _inference(situation: Situation, now: datetime) -> WorkspaceStatus:
    observed = situation.observed
    workspace, stored = observed.workspace, observed.workspace.status
    specs = workspace.inference.adapters if workspace.inference is not None else []
    statefulset = observed.statefulset
    resources = _resources(situation)
    resource = resources.resource if resources is not None else _hindrance(situation)
    kept = resources is None and statefulset is not None
    target = situation.nodes.target_count if situation.nodes is not None else stored.target_node_count
    inference = judge_inference(statefulset, target, observed.pods, observed.nodes, resource)
    if statefulset is None and situation.obstacle is not None and not situation.obstacle.field.startswith("resource"):
        inference = Finding(ok=False, reason=situation.obstacle.reason, message=situation.obstacle.message)
    for wait in (key_wait(workspace, observed.pods), unmade(workspace, statefulset, observed.pods)):
        if wait is not None and inference.reason == Reason.INFERENCE_PENDING and not wait.seconds_left(now):
            inference = wait.finding()
    plan = situation.plan or stored.plan
    adapters = fold_adapters(
        specs, observed.pods, spans_nodes=plan is not None and plan.nodes > 1, checks=observed.adapter_checks
    )
    nodes: dict[WorkspaceCondition, Finding | None] = {
        WorkspaceCondition.NODE_CLAIM_READY: resources.claims if resources is not None else None,
        WorkspaceCondition.NODES_READY: resources.nodes if resources is not None else None,
    }
    findings = {
        **({} if kept else nodes),
        WorkspaceCondition.RESOURCE_READY: resource,
        WorkspaceCondition.INFERENCE_READY: inference,
        WorkspaceCondition.ADAPTERS_READY: judge_adapters(specs, adapters, situation.adapters_held),
        WorkspaceCondition.SUCCEEDED: _succeeded(situation, resource, inference),
    }
    conditions = _merge(stored.conditions, findings, workspace.metadata.generation, now)
    return msgspec.structs.replace(
        stored,
        conditions=conditions,
        state=_state(stored.state, serves=inference.ok),
        target_node_count=target,
        worker_nodes=_worker_nodes(situation, resources),
        adapters=adapters,
        plan=with_facts(plan, observed.pods),
        phases=time_phases(workspace, conditions, observed.pods),
    )


def _tuning(situation: Situation, now: datetime) -> WorkspaceStatus:
    observed, run = situation.observed, situation.run
    workspace, stored = observed.workspace, observed.workspace.status
    assert run is not None
    assert workspace.tuning is not None
    generation = workspace.metadata.generation
    if run.over:
        return _released(workspace, now)
    seen = scene(run.job, observed.pods)
    failure = diagnose([seen.pod], observed.nodes) if seen.pod is not None else None
    tuning = fold_tuning(run, seen, stored.tuning, workspace.tuning.output, failure)
    resources = None if run.ended else _resources(situation)
    resource = resources.resource if resources is not None else None
    if resource is None and situation.obstacle is not None and run.job is None:
        resource = obstructed(situation.obstacle)
    plan = situation.plan or stored.plan
    cost = plan.cost if plan is not None else None
    found = judge_job(run, seen, tuning, failure, resource, situation.obstacle, cost)
    lacking = unmade(workspace, run.job, observed.pods)
    if lacking is not None and not found.started.ok and not lacking.seconds_left(now):
        found = found.without_pod(lacking.finding())
    findings: dict[WorkspaceCondition, Finding | None] = {}
    if resources is not None or run.job is None:
        findings[WorkspaceCondition.NODE_CLAIM_READY] = resources.claims if resources is not None else None
        findings[WorkspaceCondition.NODES_READY] = resources.nodes if resources is not None else None
    if resource is not None:
        findings[WorkspaceCondition.RESOURCE_READY] = resource
    findings[WorkspaceCondition.JOB_STARTED] = found.started
    findings[WorkspaceCondition.SUCCEEDED] = found.succeeded
    conditions = _merge(stored.conditions, findings, generation, now)
    pods = [seen.pod] if seen.pod is not None else []
    return msgspec.structs.replace(
        stored,
        conditions=conditions,
        state=found.state,
        target_node_count=situation.nodes.target_count if situation.nodes is not None else stored.target_node_count,
        worker_nodes=_worker_nodes(situation, resources),
        tuning=tuning,
        plan=plan,
        phases=time_phases(workspace, conditions, pods),
    )


def _released(workspace: Workspace, now: datetime) -> WorkspaceStatus:
    """Report that the nodes of a finished run are given back. No condition turns: the run went as it went."""
    stored = workspace.status
    if workspace.resource is None or not workspace.resource.instance_type:
        return stored
    conditions = stored.conditions
    for type_ in (
        WorkspaceCondition.NODE_CLAIM_READY,
        WorkspaceCondition.NODES_READY,
        WorkspaceCondition.RESOURCE_READY,
    ):
        old = find_condition(conditions, type_)
        if old is not None:
            ok = old.status == Status.TRUE
            text = "The run is over, so its nodes are given back."
            finding = Finding(ok=ok, reason=Reason.NODES_RELEASED, message=text)
            conditions = set_condition(conditions, finding.condition(type_, workspace.metadata.generation), now)
    return msgspec.structs.replace(stored, conditions=conditions, worker_nodes=[])


def _deleting(observed: Observed, deletion: DeletionPlan, now: datetime) -> WorkspaceStatus:
    """Report the end. All other conditions stay as they were: a finished tuning stays finished."""
    workspace = observed.workspace
    finding = Finding(ok=True, reason=deletion.reason, message=deletion.message)
    condition = finding.condition(WorkspaceCondition.DELETING, workspace.metadata.generation)
    return msgspec.structs.replace(
        workspace.status, conditions=set_condition(workspace.status.conditions, condition, now)
    )


def _resources(situation: Situation) -> ResourceFindings | None:
    # Nodes that an obstacle keeps from being asked for are not "on their way".
    if situation.nodes is None or (situation.obstacle is not None and situation.nodes.creates):
        return None
    return judge_resources(situation.nodes, views(situation.observed.claims), situation.observed.nodes)


def _worker_nodes(situation: Situation, resources: ResourceFindings | None) -> list[str]:
    """Return the nodes to show. The first ones are told together with their claims: one write, not one for each step."""
    stored = situation.observed.workspace.status.worker_nodes
    if situation.nodes is None:
        return stored
    waits = resources is not None and resources.claims is not None and not resources.claims.ok
    return [] if waits and not stored else list(situation.nodes.worker_nodes)


def _hindrance(situation: Situation) -> Finding:
    """Return ResourceReady where no nodes could be planned: a running workload keeps the ones that it has."""
    observed, obstacle = situation.observed, situation.obstacle
    if obstacle is None:
        return Finding(ok=False, reason=Reason.RESOURCE_NOT_READY, message="The nodes are not planned yet.")
    if observed.statefulset is None:
        return obstructed(obstacle)
    ready = {node.metadata.name for node in observed.nodes if node.ready}
    lost = [name for name in observed.workspace.status.worker_nodes if name not in ready]
    if lost:
        return Finding(ok=False, reason=Reason.NODE_NOT_READY, message=f"Lost node(s): {', '.join(lost)}.")
    return Finding(ok=True, reason=Reason.RESOURCE_SUCCESS, message="The nodes of the last valid spec are kept.")


def _succeeded(situation: Situation, resource: Finding, inference: Finding) -> Finding:
    obstacle = situation.obstacle
    if obstacle is not None:
        message = obstacle.message
        if situation.observed.statefulset is not None:
            message = f"{sentence(message)} The running workload keeps its last valid spec."
        return Finding(ok=False, reason=obstacle.reason, message=message)
    for finding in (resource, inference):
        if not finding.ok:
            return Finding(ok=False, reason=Reason.PENDING, message=finding.message)
    return Finding(ok=True, reason=Reason.SUCCEEDED, message="The model serves.")


def _merge(
    stored: list[Condition], findings: Mapping[WorkspaceCondition, Finding | None], generation: int, now: datetime
) -> list[Condition]:
    """Return the stored conditions with the findings in their places; a finding of None removes its condition."""
    conditions = stored
    for type_, finding in findings.items():
        if finding is not None:
            conditions = set_condition(conditions, finding.condition(type_, generation), now)
        elif find_condition(conditions, type_) is not None:
            conditions = [condition for condition in conditions if condition.type != type_]
    return conditions


def _state(stored: str, *, serves: bool) -> str:
    """Return KAITO's state: a Workspace that once was Ready is NotReady afterwards, never Pending again.

    It is about serving alone. An edit that is refused while the last valid spec serves on leaves it Ready: that the edit did
    not take is said by WorkspaceSucceeded, whatever refused it.
    """
    if serves:
        return WorkspaceState.READY
    was_ready = stored in {WorkspaceState.READY, WorkspaceState.NOT_READY}
    return WorkspaceState.NOT_READY if was_ready else WorkspaceState.PENDING
