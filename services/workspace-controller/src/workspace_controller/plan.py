"""Pure: everything known about one Workspace to everything that is to be done about it.

Puts the sub-plans in order. The first obstacle stops what would be created; what runs keeps running, and the status says
what stands in the way and who can remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import StatefulSet
from kaito_api.meta import Object, Resource
from kaito_api.resources import CONTROLLERREVISIONS, DEPLOYMENTS, NETWORKPOLICIES, SERVICES, STATEFULSETS
from kaito_api.workspace_status import WorkspaceStatus
from workspace_controller.applied import immutable_changes, patch_of, stamped, stands
from workspace_controller.catalog import Catalog
from workspace_controller.claims import claim_resource
from workspace_controller.decision import Decision, Delete, Finalizer, Notice, Obstacle, Patch, PlanReason
from workspace_controller.deletion import Stage, plan_deletion
from workspace_controller.failures import cut
from workspace_controller.inference import plan_inference
from workspace_controller.manifest import Manifest
from workspace_controller.nodes import NodePlan, plan_nodes
from workspace_controller.observed import ChildId, Observed
from workspace_controller.revision import RevisionPlan, plan_revision
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing, plan_status
from workspace_controller.status import Situation, compose
from workspace_controller.validation import Verdict, validate

_MESSAGE_LIMIT: Final = 2048
_PRUNED: Final[dict[str, Resource[Any]]] = {SERVICES.plural: SERVICES, NETWORKPOLICIES.plural: NETWORKPOLICIES}


class Children(msgspec.Struct, frozen=True, kw_only=True):
    """What to write so that the Workspace's own objects are as desired."""

    creates: tuple[Manifest, ...] = ()
    patches: tuple[Patch, ...] = ()
    applies: tuple[Manifest, ...] = ()
    deletes: tuple[Delete, ...] = ()


def plan(observed: Observed, catalog: Catalog, settings: Settings, now: datetime) -> Decision:
    """Decide what to do about `observed.workspace`."""
    if observed.workspace.metadata.deleting:
        return _plan_end(observed, settings, now)
    verdict = validate(observed.workspace, catalog, settings, config=observed.config, nodes=observed.nodes)
    obstacle = _obstacle(observed, verdict, settings)
    if verdict.sizing is None or observed.workspace.tuning is not None:
        return _obstructed(Situation(observed=observed, obstacle=obstacle), now)
    sizing = verdict.sizing
    nodes = plan_nodes(observed.workspace, observed.nodes, observed.claims, sizing, settings, now)
    history = plan_revision(observed.workspace, observed.revisions)
    desired = _desired(observed, sizing, settings, history)
    obstacle = obstacle or _name_taken(observed, desired)
    shown = plan_status(sizing, _image(sizing, settings), observed.workspace.metadata.generation)
    situation = Situation(observed=observed, nodes=nodes, plan=shown, obstacle=obstacle)
    if obstacle is not None:
        return _obstructed(situation, now)
    return _proceed(situation, nodes, history, desired, now)


def _proceed(
    situation: Situation, nodes: NodePlan, history: RevisionPlan, desired: Sequence[Manifest], now: datetime
) -> Decision:
    observed = situation.observed
    children = _children(observed, desired, nodes_ready=nodes.blocked is None)
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
        blocked_on=nodes.blocked.reason if nodes.blocked is not None else "",
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


def _obstacle(observed: Observed, verdict: Verdict, settings: Settings) -> Obstacle | None:
    """Return the first thing that keeps the Workspace from being realised, most fundamental first."""
    if verdict.errors:
        text = cut("; ".join(str(error) for error in verdict.errors), _MESSAGE_LIMIT)
        return Obstacle(reason=verdict.errors[0].reason, message=text, field=verdict.errors[0].path)
    if observed.namespace_terminating:
        text = "The namespace is being deleted: nothing can be created in it, and no node is requested."
        return Obstacle(reason=Reason.NAMESPACE_TERMINATING, message=text)
    if observed.workspace.tuning is not None:
        text = "The spec is valid, but this version of the controller runs inference only: upgrade it to run tuning."
        return Obstacle(reason=PlanReason.TUNING_NOT_YET_AVAILABLE, message=text, field="tuning")
    if observed.missing_policies:
        names = ", ".join(observed.missing_policies)
        text = f"No rights are granted to the workload while an admission policy is missing: install {names}."
        return Obstacle(reason=Reason.ADMISSION_POLICY_MISSING, message=text, field="inference")
    if verdict.sizing is not None and verdict.sizing.instance_type and not observed.claim_api_served:
        resource = claim_resource(settings.claim_api)
        text = (
            f"The cluster does not serve {resource.plural}.{resource.group}/{resource.version}: install the node "
            "provisioner's CRDs, set --claim-api to the kind that it uses, or leave resource.instanceType out and "
            "label nodes of your own."
        )
        return Obstacle(reason=PlanReason.CLAIM_API_NOT_SERVED, message=text, field="resource")
    return None


def _desired(observed: Observed, sizing: Sizing, settings: Settings, history: RevisionPlan) -> tuple[Manifest, ...]:
    """Return the stamped objects of the workload; none while nobody knows what GPUs it will find."""
    if sizing.gpus is None and sizing.preset is not None:
        return ()
    manifests = plan_inference(observed.workspace, observed.config, sizing, settings, revision=history.number)
    return tuple(stamped(manifest) for manifest in manifests)


def _name_taken(observed: Observed, desired: Sequence[Manifest]) -> Obstacle | None:
    for manifest in desired:
        found = observed.child(manifest.resource, manifest.name)
        if found is not None and not observed.owns(found):
            return name_taken(manifest, found)
    return None


def name_taken(manifest: Manifest, found: Object) -> Obstacle:
    """Return the obstacle that `found`, which is not ours, stands under the name that `manifest` needs."""
    owner = found.metadata.controller
    whose = f"belongs to {owner.kind} {owner.name}" if owner is not None else "was not made for this Workspace"
    text = (
        f"{manifest.resource.kind} {manifest.key} exists already and {whose}; it is left untouched. "
        "Delete it, or create the Workspace under another name."
    )
    return Obstacle(reason=Reason.NAME_TAKEN, message=text, field="inference")


def _children(observed: Observed, desired: Sequence[Manifest], *, nodes_ready: bool) -> Children:
    """Compare what is desired with what stands. A workload is first created when its nodes are ready."""
    creates: list[Manifest] = []
    patches: list[Patch] = []
    applies: list[Manifest] = []
    deletes: list[Delete] = _surplus(observed, desired)
    for manifest in desired:
        found = observed.child(manifest.resource, manifest.name)
        if found is None:
            if manifest.resource is not STATEFULSETS:
                creates.append(manifest)
            elif nodes_ready:
                applies.append(manifest)
        elif found.metadata.deleting or stands(manifest, found, observed.applied_generations):
            continue
        elif not isinstance(found, StatefulSet):
            patches.append(patch_of(manifest))
        elif immutable_changes(manifest, found):
            meta = found.metadata
            deletes.append(Delete(resource=STATEFULSETS, key=meta.key, uid=meta.uid, propagation="Orphan"))
        else:
            applies.append(manifest)
    return Children(creates=tuple(creates), patches=tuple(patches), applies=tuple(applies), deletes=tuple(deletes))


def _surplus(observed: Observed, desired: Sequence[Manifest]) -> list[Delete]:
    """Return what we once made and no longer want, such as the headless Service of a workload of several nodes."""
    if not desired:
        return []
    wanted = {ChildId(manifest.resource.plural, manifest.name) for manifest in desired}
    return [
        Delete(resource=_PRUNED[child.plural], key=found.metadata.key, uid=found.metadata.uid)
        for child, found in observed.children.items()
        if child.plural in _PRUNED
        and child not in wanted
        and observed.owns(found)
        and labels.APPLIED_HASH in found.metadata.annotations
        and not found.metadata.deleting
    ]


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
