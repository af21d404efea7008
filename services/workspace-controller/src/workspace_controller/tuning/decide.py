"""Pure: everything known about one tuning Workspace to everything that is to be done about it.

The order matters for money and for what the user learns: nodes, then the Job, then its end in the status, and only when that is
stored are the nodes given back. A Job whose request has changed is replaced; one that runs is never touched because an image or a
setting changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from kaito_api.resources import JOBS
from kaito_api.workspace_status import WorkspaceState, WorkspaceStatus
from workspace_controller.applied import stamped
from workspace_controller.bookkeeping import (
    claim_notices,
    engine_image,
    finalizer,
    news,
    old_revisions,
    renumbered,
    revision_annotations,
    soonest,
)
from workspace_controller.catalog import Catalog
from workspace_controller.children import plan_children
from workspace_controller.claims import claim_resource, views
from workspace_controller.decision import Decision, Delete, Notice
from workspace_controller.manifest import Manifest
from workspace_controller.nodes import plan_nodes
from workspace_controller.observed import Observed
from workspace_controller.obstacles import find_obstacle, taken_name
from workspace_controller.revision import RevisionPlan, plan_revision
from workspace_controller.settings import ClaimApi, Settings
from workspace_controller.sizing import plan_status
from workspace_controller.status import Situation, compose
from workspace_controller.status.resource import judge_resources
from workspace_controller.status.unmade import unmade
from workspace_controller.status.wait import next_telling
from workspace_controller.trial import trials
from workspace_controller.tuning import plan_tuning
from workspace_controller.tuning.run import Run, present_run
from workspace_controller.validation import validate

_AT_ONCE: Final = 0.05
"""Seconds until the next step: the status has to be stored before the nodes go."""


def decide_tuning(observed: Observed, catalog: Catalog, settings: Settings, now: datetime) -> Decision:
    """Decide what to do about `observed.workspace`, which trains."""
    run = present_run(observed)
    if run.over:
        return _release(observed, run, settings, now)
    if run.ended:
        return _close(observed, run, now)
    verdict = validate(observed.workspace, catalog, settings, config=observed.config, nodes=observed.nodes)
    obstacle = find_obstacle(observed, verdict, settings)
    sizing = verdict.sizing
    if sizing is None:
        return _obstructed(Situation(observed=observed, obstacle=obstacle, run=run.kept), settings, now)
    nodes = plan_nodes(
        observed.workspace, observed.nodes, observed.claims, sizing, settings, now, busy=observed.busy_nodes
    )
    history = plan_revision(observed.workspace, observed.revisions)
    desired = tuple(
        stamped(manifest)
        for manifest in plan_tuning(
            observed.workspace,
            observed.config,
            sizing,
            settings,
            run=run.name,
            revision=history.number,
            registry_ca=observed.registry_ca,
        )
    )
    obstacle = obstacle or taken_name(observed, desired)
    shown = plan_status(sizing, engine_image(sizing, settings), observed.workspace.metadata.generation)
    if obstacle is not None:
        return _obstructed(
            Situation(observed=observed, nodes=nodes, plan=shown, obstacle=obstacle, run=run.kept), settings, now
        )
    situation = Situation(observed=observed, nodes=nodes, plan=shown, run=run)
    return _proceed(situation, run, history, desired, now)


def _proceed(
    situation: Situation, run: Run, history: RevisionPlan, desired: Sequence[Manifest], now: datetime
) -> Decision:
    observed, nodes = situation.observed, situation.nodes
    assert nodes is not None
    resources = judge_resources(nodes, views(observed.claims), observed.nodes)
    ready = resources.resource.ok
    children = plan_children(observed, [each for each in desired if each.resource is not JOBS], nodes_ready=ready)
    jobs = tuple(each for each in desired if each.resource is JOBS and ready and run.job is None and run.stale is None)
    status = compose(situation, now)
    stands_or_comes = run.job is not None or bool(jobs)
    return Decision(
        finalizer=finalizer(observed),
        annotations=revision_annotations(observed, history),
        deletes=(*nodes.deletes, *children.deletes, *_replaced(run), *old_revisions(history)),
        creates=children.creates,
        patches=children.patches + renumbered(history),
        trials=() if run.job is not None else trials(observed.workspace, desired, nodes.creates),
        claims=nodes.creates,
        applies=jobs,
        history=(history.create,) if history.create is not None and stands_or_comes else (),
        status=news(observed, status),
        notices=(*claim_notices(nodes), *_notices(observed.workspace.status, status)),
        requeue_after=soonest(
            nodes.requeue_after, next_telling(now, unmade(observed.workspace, run.job, observed.pods))
        ),
        blocked_on="" if ready else resources.resource.reason,
    )


def _obstructed(situation: Situation, settings: Settings, now: datetime) -> Decision:
    """Keep what works as it is and say what stands in the way. A node on which nothing works any more is given back."""
    observed, obstacle, run = situation.observed, situation.obstacle, situation.run
    idle = run is not None and run.job is None and run.stale is not None
    return Decision(
        finalizer=finalizer(observed),
        deletes=_claims(observed, settings.claim_api) if idle else (),
        status=news(observed, compose(situation, now)),
        blocked_on=obstacle.reason if obstacle is not None else "",
    )


def _close(observed: Observed, run: Run, now: datetime) -> Decision:
    """Write how the Job ended. Nothing else: its pods and its nodes are still there to be read."""
    status = compose(Situation(observed=observed, run=run), now)
    return Decision(
        finalizer=finalizer(observed),
        status=news(observed, status),
        notices=_notices(observed.workspace.status, status),
        requeue_after=_AT_ONCE,
    )


def _release(observed: Observed, run: Run, settings: Settings, now: datetime) -> Decision:
    """Give back the nodes of a run that is over, and remove the Job of an earlier request."""
    deletes = _claims(observed, settings.claim_api)
    return Decision(
        finalizer=finalizer(observed),
        deletes=deletes,
        status=news(observed, compose(Situation(observed=observed, run=run), now)),
        notices=tuple(
            Notice(type="Normal", reason="NodeReleased", message=f"Gave back the node of claim {step.key.name}.")
            for step in deletes
        ),
    )


def _claims(observed: Observed, api: ClaimApi) -> tuple[Delete, ...]:
    uid = observed.workspace.metadata.uid
    return tuple(
        Delete(resource=claim_resource(api), key=claim.key, uid=claim.uid)
        for claim in views(observed.claims)
        if claim.workspace_uid == uid and not claim.deleting
    )


def _replaced(run: Run) -> tuple[Delete, ...]:
    """Return the deletion of the Job of another request. Its pods go first: two of them must not write one output."""
    stale = run.stale
    if stale is None or stale.metadata.deleting:
        return ()
    return (Delete(resource=JOBS, key=stale.metadata.key, uid=stale.metadata.uid, propagation="Foreground"),)


def _notices(stored: WorkspaceStatus, status: WorkspaceStatus) -> tuple[Notice, ...]:
    """Return the events about a change of the run."""
    before, after = stored.tuning, status.tuning
    if after is None:
        return ()
    if status.state != stored.state:
        if status.state == WorkspaceState.RUNNING:
            return (Notice(type="Normal", reason="TuningStarted", message="The tuning Job has started."),)
        if status.state == WorkspaceState.SUCCEEDED:
            return (Notice(type="Normal", reason="TuningSucceeded", message=after.message),)
        if status.state == WorkspaceState.FAILED:
            return (Notice(type="Warning", reason="TuningFailed", message=after.message),)
    if before is not None and before.run == after.run and 0 < before.attempt < after.attempt:
        return (Notice(type="Warning", reason="TuningRetried", message=f"Attempt {after.attempt}: {after.message}"),)
    return ()
