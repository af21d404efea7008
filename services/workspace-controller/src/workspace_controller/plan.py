"""Pure: everything known about one Workspace to everything that is to be done about it.

Puts the sub-plans in order. The first obstacle stops what would be created; what runs keeps running, and the status says
what stands in the way and who can remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.resources import DEPLOYMENTS, STATEFULSETS
from workspace_controller.adapter_check import check_obstacle, look_again, rank_for
from workspace_controller.adapter_plan import AdapterPlan, encoded, settle, with_volumes
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
from workspace_controller.claims import views
from workspace_controller.decision import Decision, Delete, Finalizer, Notice, Obstacle
from workspace_controller.deletion import Stage, plan_deletion
from workspace_controller.failures import fails_to_start
from workspace_controller.inference import plan_inference
from workspace_controller.manifest import Manifest
from workspace_controller.nodes import NodePlan, plan_nodes
from workspace_controller.observed import Observed
from workspace_controller.obstacles import find_obstacle, taken_name
from workspace_controller.options import Options, read_options
from workspace_controller.revision import RevisionPlan, plan_revision
from workspace_controller.rollout import asked_of, with_rollout
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing, plan_status
from workspace_controller.status import Situation, compose
from workspace_controller.status.keys import key_wait
from workspace_controller.status.resource import judge_resources
from workspace_controller.status.unmade import unmade
from workspace_controller.status.wait import next_telling
from workspace_controller.trial import trials
from workspace_controller.tuning.decide import decide_tuning
from workspace_controller.validation import validate

_LOOK_AGAIN: Final = 65.0
"""Seconds: a better adapter may be pushed under the same tag, and nothing tells us."""


def plan(observed: Observed, catalog: Catalog, settings: Settings, now: datetime) -> Decision:
    """Decide what to do about `observed.workspace`."""
    if observed.workspace.metadata.deleting:
        return _plan_end(observed, settings, now)
    if observed.workspace.tuning is not None:
        return decide_tuning(observed, catalog, settings, now)
    options = read_options(observed.workspace.metadata.annotations)
    rank = rank_for(observed.adapter_checks, settings.lora)
    adapters = settle(observed.workspace, rank, observed.statefulset, allowed=options.adapter_restart)
    settings = _with_rank(settings, adapters.plan.rank)
    verdict = validate(observed.workspace, catalog, settings, config=observed.config, nodes=observed.nodes)
    obstacle = find_obstacle(observed, verdict, settings) or _unseen(observed)
    if verdict.sizing is None:
        return _obstructed(Situation(observed=observed, obstacle=obstacle), now)
    sizing = verdict.sizing
    nodes = plan_nodes(
        observed.workspace, observed.nodes, observed.claims, sizing, settings, now, busy=observed.busy_nodes
    )
    history = plan_revision(observed.workspace, observed.revisions)
    desired = _desired(observed, sizing, settings, history, adapters.plan, options)
    obstacle = obstacle or taken_name(observed, desired)
    shown = plan_status(sizing, engine_image(sizing, settings), observed.workspace.metadata.generation)
    situation = Situation(observed=observed, nodes=nodes, plan=shown, obstacle=obstacle, adapters_held=adapters.held)
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
    stands_or_comes = observed.statefulset is not None or bool(children.applies)
    return Decision(
        finalizer=finalizer(observed),
        annotations=revision_annotations(observed, history),
        deletes=(*nodes.deletes, *children.deletes, *legacy, *old_revisions(history)),
        creates=children.creates,
        patches=children.patches + renumbered(history),
        trials=() if observed.statefulset is not None else trials(observed.workspace, desired, nodes.creates),
        claims=nodes.creates,
        applies=children.applies,
        history=(history.create,) if history.create is not None and stands_or_comes else (),
        status=news(observed, compose(situation, now)),
        notices=(*claim_notices(nodes), *_migration_notices(legacy)),
        requeue_after=soonest(nodes.requeue_after, _patience(observed, now)),
        blocked_on="" if resources.resource.ok else resources.resource.reason,
    )


def _obstructed(situation: Situation, now: datetime) -> Decision:
    """Keep everything as it is and say what stands in the way."""
    observed, obstacle = situation.observed, situation.obstacle
    unfit = obstacle is not None and obstacle.reason == Reason.ADAPTER_FAILED
    return Decision(
        finalizer=finalizer(observed),
        status=news(observed, compose(situation, now)),
        requeue_after=look_again(observed.adapter_checks, _LOOK_AGAIN) if unfit else None,
        blocked_on=obstacle.reason if obstacle is not None else "",
    )


def _patience(observed: Observed, now: datetime) -> float | None:
    """Return when what is waited for has taken long enough to be told: a pod's API keys, or the pod itself. No event says so."""
    workspace, pods = observed.workspace, observed.pods
    return next_telling(now, key_wait(workspace, pods), unmade(workspace, observed.statefulset, pods))


def _plan_end(observed: Observed, settings: Settings, now: datetime) -> Decision:
    if labels.WORKSPACE_FINALIZER not in observed.workspace.metadata.finalizers:
        return Decision(blocked_on="ForeignFinalizers")
    deletion = plan_deletion(observed, settings.claim_api, now)
    if deletion.stage is Stage.DONE:
        return Decision(finalizer=Finalizer.REMOVE)
    status = compose(Situation(observed=observed, deletion=deletion), now)
    return Decision(
        deletes=deletion.deletes,
        status=news(observed, status),
        requeue_after=deletion.requeue_after,
        blocked_on=deletion.stage,
    )


def _with_rank(settings: Settings, rank: int) -> Settings:
    """Return settings with which the engine starts with at least `rank`."""
    if rank <= settings.lora.rank:
        return settings
    return msgspec.structs.replace(settings, lora=msgspec.structs.replace(settings.lora, rank=rank))


def _unseen(observed: Observed) -> Obstacle | None:
    """Return what the adapters' images have against a Workspace that costs nothing yet. One that runs is left alone."""
    inference, resource = observed.workspace.inference, observed.workspace.resource
    if inference is None or observed.claims or observed.statefulset is not None:
        return None
    buys = resource is not None and bool(resource.instance_type)
    return check_obstacle(inference.adapters, observed.adapter_checks, buys=buys)


def _desired(  # noqa: PLR0917 - what is known, then what was made of it
    observed: Observed,
    sizing: Sizing,
    settings: Settings,
    history: RevisionPlan,
    adapters: AdapterPlan,
    options: Options,
) -> tuple[Manifest, ...]:
    """Return the stamped objects of the workload; none while nobody knows what GPUs it will find."""
    if sizing.gpus is None and sizing.preset is not None:
        return ()
    workspace = with_volumes(observed.workspace, adapters)
    manifests = plan_inference(
        workspace, observed.config, sizing, settings, revision=history.number, registry_ca=observed.registry_ca
    )
    asked = asked_of(observed.workspace, observed.config, options, adapters)
    allowed = options.upgrade_restart or fails_to_start(observed.pods)
    return tuple(
        stamped(
            with_rollout(_noted(manifest, adapters), observed.statefulset, asked, allowed=allowed)
            if manifest.resource is STATEFULSETS
            else manifest
        )
        for manifest in manifests
    )


def _noted(manifest: Manifest, adapters: AdapterPlan) -> Manifest:
    """Return a StatefulSet with the adapters' part of its template written on it, outside the template."""
    metadata = manifest.body["metadata"]
    annotations = {**metadata.get("annotations", {}), labels.ADAPTER_PLAN: encoded(adapters)}
    return Manifest(
        resource=manifest.resource, body={**manifest.body, "metadata": {**metadata, "annotations": annotations}}
    )


def _legacy(observed: Observed) -> tuple[Delete, ...]:
    """Return the deletion of the Deployment with which KAITO before 0.8 ran this Workspace."""
    return tuple(
        Delete(resource=DEPLOYMENTS, key=found.metadata.key, uid=found.metadata.uid)
        for found in observed.deployments
        if found.metadata.name == observed.workspace.metadata.name
        and observed.owns(found)
        and not found.metadata.deleting
    )


def _migration_notices(legacy: Sequence[Delete]) -> tuple[Notice, ...]:
    text = "The Deployment {name} of an earlier version is replaced by a StatefulSet."
    return tuple(
        Notice(type="Warning", reason="WorkloadMigration", message=text.format(name=step.key.name)) for step in legacy
    )
