"""Pure: everything known about one Workspace to everything that is to be done about it.

Puts the sub-plans in order. The first obstacle stops what would be created; what runs keeps running, and the status says
what stands in the way and who can remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kaito_api import labels
from kaito_api.resources import CONTROLLERREVISIONS, DEPLOYMENTS
from kaito_api.workspace_status import WorkspaceStatus
from workspace_controller.applied import stamped
from workspace_controller.catalog import Catalog
from workspace_controller.children import plan_children
from workspace_controller.claims import views
from workspace_controller.decision import Decision, Delete, Finalizer, Notice, Patch
from workspace_controller.deletion import Stage, plan_deletion
from workspace_controller.inference import plan_inference
from workspace_controller.manifest import Manifest
from workspace_controller.nodes import NodePlan, plan_nodes
from workspace_controller.observed import Observed
from workspace_controller.obstacles import find_obstacle, taken_name
from workspace_controller.revision import RevisionPlan, plan_revision
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing, plan_status
from workspace_controller.status import Situation, compose
from workspace_controller.status.resource import judge_resources
from workspace_controller.validation import validate


def plan(observed: Observed, catalog: Catalog, settings: Settings, now: datetime) -> Decision:
    """Decide what to do about `observed.workspace`."""
    if observed.workspace.metadata.deleting:
        return _plan_end(observed, settings, now)
    verdict = validate(observed.workspace, catalog, settings, config=observed.config, nodes=observed.nodes)
    obstacle = find_obstacle(observed, verdict, settings)
    if verdict.sizing is None or observed.workspace.tuning is not None:
        return _obstructed(Situation(observed=observed, obstacle=obstacle), now)
    sizing = verdict.sizing
    nodes = plan_nodes(observed.workspace, observed.nodes, observed.claims, sizing, settings, now)
    history = plan_revision(observed.workspace, observed.revisions)
    desired = _desired(observed, sizing, settings, history)
    obstacle = obstacle or taken_name(observed, desired)
    shown = plan_status(sizing, _image(sizing, settings), observed.workspace.metadata.generation)
    situation = Situation(observed=observed, nodes=nodes, plan=shown, obstacle=obstacle)
    if obstacle is not None:
        return _obstructed(situation, now)
    return _proceed(situation, nodes, history, desired, now)


def _proceed(
    situation: Situation, nodes: NodePlan, history: RevisionPlan, desired: Sequence[Manifest], now: datetime
) -> Decision:
    observed = situation.observed
    resources = judge_resources(nodes, views(observed.claims), observed.nodes)
    children = plan_children(observed, desired, nodes_ready=resources.resource.ok)
    legacy = _legacy(observed)
    annotations = {labels.REVISION_HASH: history.digest, labels.REVISION: str(history.number)}
    stored = observed.workspace.metadata.annotations
    stands_or_comes = observed.statefulset is not None or bool(children.applies)
    return Decision(
        finalizer=_finalizer(observed),
        annotations={key: value for key, value in annotations.items() if stored.get(key) != value},
        deletes=(*nodes.deletes, *children.deletes, *legacy, *_old_revisions(history)),
        creates=children.creates,
        patches=children.patches + _renumbered(history),
        claims=nodes.creates,
        applies=children.applies,
        history=(history.create,) if history.create is not None and stands_or_comes else (),
        status=_news(observed, compose(situation, now)),
        notices=(*_claim_notices(nodes), *_migration_notices(legacy)),
        requeue_after=nodes.requeue_after,
        blocked_on="" if resources.resource.ok else resources.resource.reason,
    )


def _obstructed(situation: Situation, now: datetime) -> Decision:
    """Keep everything as it is and say what stands in the way."""
    observed, obstacle = situation.observed, situation.obstacle
    return Decision(
        finalizer=_finalizer(observed),
        status=_news(observed, compose(situation, now)),
        blocked_on=obstacle.reason if obstacle is not None else "",
    )


def _plan_end(observed: Observed, settings: Settings, now: datetime) -> Decision:
    if labels.WORKSPACE_FINALIZER not in observed.workspace.metadata.finalizers:
        return Decision(blocked_on="ForeignFinalizers")
    deletion = plan_deletion(observed, settings.claim_api, now)
    if deletion.stage is Stage.DONE:
        return Decision(finalizer=Finalizer.REMOVE)
    status = compose(Situation(observed=observed, deletion=deletion), now)
    return Decision(
        deletes=deletion.deletes,
        status=_news(observed, status),
        requeue_after=deletion.requeue_after,
        blocked_on=deletion.stage,
    )


def _desired(observed: Observed, sizing: Sizing, settings: Settings, history: RevisionPlan) -> tuple[Manifest, ...]:
    """Return the stamped objects of the workload; none while nobody knows what GPUs it will find."""
    if sizing.gpus is None and sizing.preset is not None:
        return ()
    manifests = plan_inference(observed.workspace, observed.config, sizing, settings, revision=history.number)
    return tuple(stamped(manifest) for manifest in manifests)


def _legacy(observed: Observed) -> tuple[Delete, ...]:
    """Return the deletion of the Deployment with which KAITO before 0.8 ran this Workspace."""
    return tuple(
        Delete(resource=DEPLOYMENTS, key=found.metadata.key, uid=found.metadata.uid)
        for found in observed.deployments
        if found.metadata.name == observed.workspace.metadata.name
        and observed.owns(found)
        and not found.metadata.deleting
    )


def _old_revisions(history: RevisionPlan) -> tuple[Delete, ...]:
    return tuple(
        Delete(resource=CONTROLLERREVISIONS, key=revision.metadata.key, uid=revision.metadata.uid)
        for revision in history.surplus
    )


def _renumbered(history: RevisionPlan) -> tuple[Patch, ...]:
    if history.renumber is None:
        return ()
    body = {"metadata": {"annotations": {labels.REVISION: str(history.number)}}, "revision": history.number}
    return (Patch(resource=CONTROLLERREVISIONS, key=history.renumber, body=body),)


def _finalizer(observed: Observed) -> Finalizer:
    held = labels.WORKSPACE_FINALIZER in observed.workspace.metadata.finalizers
    return Finalizer.KEEP if held else Finalizer.ADD


def _news(observed: Observed, status: WorkspaceStatus) -> WorkspaceStatus | None:
    return None if status == observed.workspace.status else status


def _image(sizing: Sizing, settings: Settings) -> str:
    if sizing.engine is None:
        return ""
    return settings.engine_images.get(sizing.engine.name, sizing.engine.image)


def _claim_notices(nodes: NodePlan) -> tuple[Notice, ...]:
    return tuple(
        Notice(
            type="Normal",
            reason="NodeClaimCreated",
            message=f"Requested a node with {claim.resource.kind} {claim.name}.",
        )
        for claim in nodes.creates
    )


def _migration_notices(legacy: Sequence[Delete]) -> tuple[Notice, ...]:
    text = "The Deployment {name} of an earlier version is replaced by a StatefulSet."
    return tuple(
        Notice(type="Warning", reason="WorkloadMigration", message=text.format(name=step.key.name)) for step in legacy
    )
