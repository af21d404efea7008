"""One view of both claim kinds, so that status, deletion and the sweep need not know which API is in use.

A NodeClaim (karpenter.sh/v1) and a Machine (karpenter.sh/v1alpha5) say the same things in different words: the types of
the three sub-conditions differ, and a Machine that failed to launch says False where a NodeClaim says Unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import ClaimCondition, ClaimReason, MachineConditionType, find_condition, is_true
from kaito_api.machine import Machine
from kaito_api.meta import Condition, Key, Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS
from workspace_controller.settings import ClaimApi

Claim = NodeClaim | Machine

_NODECLAIM_STEPS: Final = (ClaimCondition.LAUNCHED, ClaimCondition.REGISTERED, ClaimCondition.INITIALIZED)
_MACHINE_STEPS: Final = (
    MachineConditionType.LAUNCHED,
    MachineConditionType.REGISTERED,
    MachineConditionType.INITIALIZED,
)


class ClaimView(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller reads of a claim, whichever its kind."""

    key: Key
    uid: str
    workspace: Key
    """The Workspace that the labels name; both parts are "" on a claim without the labels."""
    workspace_uid: str
    """UID of the Workspace that it was made for; "" on a claim that this controller did not make."""
    deleting: bool
    ready: bool
    node_name: str
    provider_id: str
    blocker: Condition | None
    """The sub-condition that explains why the claim is not ready; None where nothing was said yet."""


def claim_resource(api: ClaimApi) -> Resource[Any]:
    """Return the descriptor of the claim kind that `api` names."""
    return MACHINES if api is ClaimApi.MACHINE else NODECLAIMS


def view(claim: Claim) -> ClaimView:
    """Return the common view of `claim`."""
    meta = claim.metadata
    return ClaimView(
        key=meta.key,
        uid=meta.uid,
        workspace=workspace_of(claim),
        workspace_uid=meta.annotations.get(labels.WORKSPACE_UID, ""),
        deleting=meta.deleting,
        ready=is_true(claim.status.conditions, ClaimCondition.READY) and not meta.deleting,
        node_name=claim.status.node_name,
        provider_id=claim.status.provider_id,
        blocker=_blocker(claim),
    )


def views(claims: Iterable[Claim]) -> tuple[ClaimView, ...]:
    """Return the views of `claims`, in name order."""
    return tuple(sorted((view(claim) for claim in claims), key=lambda claim: claim.key))


def workspace_of(claim: Claim) -> Key:
    """Return the key of the Workspace that the claim's labels name."""
    found = claim.metadata.labels
    return Key(found.get(labels.WORKSPACE_NAMESPACE, ""), found.get(labels.WORKSPACE, ""))


def _blocker(claim: Claim) -> Condition | None:
    """Return the first step that is not True and says more than that it awaits its turn."""
    steps = _MACHINE_STEPS if isinstance(claim, Machine) else _NODECLAIM_STEPS
    found = [find_condition(claim.status.conditions, step) for step in steps]
    open_steps = [condition for condition in found if condition is not None and condition.status != "True"]
    return next((step for step in open_steps if step.reason != ClaimReason.AWAITING_RECONCILIATION), None)
