"""Pure: the parts of a decision that every Workspace has, whatever it runs: finalizer, history, status, events about nodes."""

from __future__ import annotations

from kaito_api import labels
from kaito_api.resources import CONTROLLERREVISIONS
from kaito_api.workspace_status import WorkspaceStatus
from workspace_controller.decision import Delete, Finalizer, Notice, Patch
from workspace_controller.nodes import NodePlan
from workspace_controller.observed import Observed
from workspace_controller.revision import RevisionPlan
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing


def finalizer(observed: Observed) -> Finalizer:
    """Return what to do about our finalizer of a Workspace that stays."""
    held = labels.WORKSPACE_FINALIZER in observed.workspace.metadata.finalizers
    return Finalizer.KEEP if held else Finalizer.ADD


def news(observed: Observed, status: WorkspaceStatus) -> WorkspaceStatus | None:
    """Return `status` where it differs from the stored one."""
    return None if status == observed.workspace.status else status


def revision_annotations(observed: Observed, history: RevisionPlan) -> dict[str, str]:
    """Return the annotations of the Workspace that say which revision it is, where they are not there yet."""
    wanted = {labels.REVISION_HASH: history.digest, labels.REVISION: str(history.number)}
    stored = observed.workspace.metadata.annotations
    return {key: value for key, value in wanted.items() if stored.get(key) != value}


def old_revisions(history: RevisionPlan) -> tuple[Delete, ...]:
    """Return the deletions of the revisions above the limit."""
    return tuple(
        Delete(resource=CONTROLLERREVISIONS, key=revision.metadata.key, uid=revision.metadata.uid)
        for revision in history.surplus
    )


def renumbered(history: RevisionPlan) -> tuple[Patch, ...]:
    """Return the patch of an earlier revision that counts again."""
    if history.renumber is None:
        return ()
    body = {"metadata": {"annotations": {labels.REVISION: str(history.number)}}, "revision": history.number}
    return (Patch(resource=CONTROLLERREVISIONS, key=history.renumber, body=body),)


def engine_image(sizing: Sizing, settings: Settings) -> str:
    """Return the image of the planned engine, "" where none is planned."""
    if sizing.engine is None:
        return ""
    return settings.engine_images.get(sizing.engine.name, sizing.engine.image)


def claim_notices(nodes: NodePlan) -> tuple[Notice, ...]:
    """Return the events about the claims that are made."""
    return tuple(
        Notice(
            type="Normal",
            reason="NodeClaimCreated",
            message=f"Requested a node with {claim.resource.kind} {claim.name}.",
        )
        for claim in nodes.creates
    )


def soonest(*seconds: float | None) -> float | None:
    """Return the least of the times that are there, None where none is."""
    return min((some for some in seconds if some is not None), default=None)
