"""Pure: what keeps a Workspace from being realised, and what the user or an operator can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kaito_api.conditions import Reason
from kaito_api.meta import Object
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace
from workspace_controller.claims import claim_resource
from workspace_controller.decision import Obstacle
from workspace_controller.failures import cut
from workspace_controller.manifest import Manifest
from workspace_controller.observed import Observed
from workspace_controller.output_tags import OutputRival, Purpose
from workspace_controller.settings import Settings
from workspace_controller.validation import Verdict

_MESSAGE_LIMIT: Final = 2048


def find_obstacle(observed: Observed, verdict: Verdict, settings: Settings) -> Obstacle | None:
    """Return the first thing that keeps the Workspace from being realised, most fundamental first."""
    if verdict.errors:
        text = cut("; ".join(str(error) for error in verdict.errors), _MESSAGE_LIMIT)
        return Obstacle(reason=verdict.errors[0].reason, message=text, field=verdict.errors[0].path)
    if observed.namespace_terminating:
        text = "The namespace is being deleted: nothing can be created in it, and no node is requested."
        return Obstacle(reason=Reason.NAMESPACE_TERMINATING, message=text)
    if observed.output_rival is not None:
        return _rivalry(observed.workspace, observed.output_rival)
    if (sizing := verdict.sizing) is not None and sizing.node_count > 1 and observed.workspace.inference is not None:
        text = (
            f"The model needs {sizing.node_count} nodes of {sizing.instance_type or 'this size'}, and this version of the model "
            "server runs on one: name an instance type that holds the model on one node. No node is requested."
        )
        return Obstacle(reason=Reason.MULTI_NODE_NOT_YET_AVAILABLE, message=text, field="resource.instanceType")
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
        return Obstacle(reason=Reason.CLAIM_API_NOT_SERVED, message=text, field="resource")
    return None


def taken_name(observed: Observed, desired: Sequence[Manifest]) -> Obstacle | None:
    """Return the obstacle that somebody else's object stands under a name that the workload needs."""
    for manifest in desired:
        found = observed.child(manifest.resource, manifest.name)
        if found is not None and not observed.owns(found):
            return _taken(observed, manifest, found)
    return None


def _rivalry(workspace: Workspace, rival: OutputRival) -> Obstacle:
    """Return the obstacle that an older Workspace writes to a tag that this one would write to."""
    same = rival.key.namespace == workspace.metadata.namespace
    whose = f"the Workspace {rival.key.name}" if same else "a Workspace of another namespace"
    does = {
        (Purpose.RESULT, Purpose.RESULT): "pushes to the same tag",
        (Purpose.CHECKPOINTS, Purpose.RESULT): "keeps the checkpoints of its training under this tag",
        (Purpose.RESULT, Purpose.CHECKPOINTS): (
            f"pushes to {rival.tag}, where the checkpoints of this training would be kept"
        ),
        (Purpose.CHECKPOINTS, Purpose.CHECKPOINTS): (
            f"keeps the checkpoints of its training under {rival.tag}, as this one would"
        ),
    }[rival.theirs, rival.ours]
    text = f"{whose} is older and {does}: name another tag in tuning.output.image."
    return Obstacle(reason=Reason.OUTPUT_CONFLICT, message=text, field="tuning.output.image")


def _taken(observed: Observed, manifest: Manifest, found: Object) -> Obstacle:
    """Return the obstacle that `found`, which is not ours, stands under the name that `manifest` needs."""
    owner = found.metadata.controller
    if owner is not None and (owner.kind, owner.name) == (WORKSPACES.kind, observed.workspace.metadata.name):
        text = (
            f"{manifest.resource.kind} {manifest.key} is left over from an earlier Workspace of this name; "
            "waiting for Kubernetes' garbage collector to remove it."
        )
        return Obstacle(reason=Reason.NAME_TAKEN, message=text, field="inference")
    whose = f"belongs to {owner.kind} {owner.name}" if owner is not None else "was not made for this Workspace"
    text = (
        f"{manifest.resource.kind} {manifest.key} exists already and {whose}; it is left untouched. "
        "Delete it, or create the Workspace under another name."
    )
    return Obstacle(reason=Reason.NAME_TAKEN, message=text, field="inference")
