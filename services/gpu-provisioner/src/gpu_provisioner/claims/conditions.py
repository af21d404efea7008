"""A claim's conditions, as Karpenter's users know them: NodeClaim (karpenter.sh/v1) and Machine (v1alpha5) spellings."""

from __future__ import annotations

from datetime import datetime

import msgspec

from gpu_provisioner.claims.view import ClaimKind, ClaimView
from kaito_api.conditions import (
    ClaimCondition,
    ClaimReason,
    MachineConditionType,
    Status,
    find_condition,
    set_condition,
)
from kaito_api.meta import Condition


class Step(msgspec.Struct, frozen=True):
    """How far one step of the life has come: a status with its reason and message."""

    status: Status
    reason: str = ""
    message: str = ""


DONE = Step(Status.TRUE)

_STEPS = (ClaimCondition.LAUNCHED, ClaimCondition.REGISTERED, ClaimCondition.INITIALIZED)
_MACHINE_NAMES = {
    ClaimCondition.LAUNCHED: MachineConditionType.LAUNCHED,
    ClaimCondition.REGISTERED: MachineConditionType.REGISTERED,
    ClaimCondition.INITIALIZED: MachineConditionType.INITIALIZED,
    ClaimCondition.READY: MachineConditionType.READY,
}


def unknown(reason: str, message: str) -> Step:
    """The step is under way or will be tried again."""
    return Step(Status.UNKNOWN, reason, message)


def failed(reason: str, message: str) -> Step:
    """The step cannot succeed without a person."""
    return Step(Status.FALSE, reason, message)


def lifecycle(claim: ClaimView, launched: Step, registered: Step, initialized: Step, now: datetime) -> list[Condition]:
    """The claim's conditions after this look: the three steps in order, and the root Ready last.

    The root is True when all three are, False when one is False, Unknown otherwise; its message lists what is not True.
    The list comes back unchanged (the same object) when nothing changed.
    """
    conditions = claim.conditions
    lagging: list[str] = []
    worst = Status.TRUE
    for type_, step in zip(_STEPS, (launched, registered, initialized), strict=True):
        spelled = _status(claim, step)
        conditions = _put(
            claim, conditions, type_, Step(spelled, step.reason or _name(claim, type_), step.message), now
        )
        if spelled is not Status.TRUE:
            lagging.append(f"{_name(claim, type_)}={spelled}")
            worst = Status.FALSE if Status.FALSE in (spelled, worst) else Status.UNKNOWN
    if worst is Status.TRUE:
        root = Step(Status.TRUE, "Ready")
    else:
        reason = ClaimReason.UNHEALTHY_DEPENDENTS if worst is Status.FALSE else ClaimReason.RECONCILING_DEPENDENTS
        root = Step(worst, reason, ", ".join(lagging))
    return _put(claim, conditions, ClaimCondition.READY, root, now)


def terminating(
    claim: ClaimView, drained: Step, detached: Step, instance: Step | None, now: datetime
) -> list[Condition]:
    """The conditions of a claim under deletion. A Machine has none of these, so it comes back unchanged."""
    if claim.kind is ClaimKind.MACHINE:
        return claim.conditions
    conditions = _put(claim, claim.conditions, ClaimCondition.DRAINED, drained, now)
    conditions = _put(claim, conditions, ClaimCondition.VOLUMES_DETACHED, detached, now)
    if instance is not None:
        conditions = _put(claim, conditions, ClaimCondition.INSTANCE_TERMINATING, instance, now)
    return conditions


def is_done(claim: ClaimView, type_: ClaimCondition) -> bool:
    """Whether the stored condition of that step is True."""
    condition = find_condition(claim.conditions, _name(claim, type_))
    return condition is not None and condition.status == Status.TRUE


def _name(claim: ClaimView, type_: ClaimCondition) -> str:
    return _MACHINE_NAMES[type_] if claim.kind is ClaimKind.MACHINE and type_ in _MACHINE_NAMES else type_


def _status(claim: ClaimView, step: Step) -> Status:
    """v1alpha5 said False where v1 says Unknown."""
    if claim.kind is ClaimKind.MACHINE and step.status is Status.UNKNOWN:
        return Status.FALSE
    return step.status


def _put(
    claim: ClaimView, conditions: list[Condition], type_: ClaimCondition, step: Step, now: datetime
) -> list[Condition]:
    name = _name(claim, type_)
    observed = 0 if claim.kind is ClaimKind.MACHINE else claim.generation
    reason = step.reason or name
    condition = Condition(
        type=name, status=step.status, reason=reason, message=step.message, observed_generation=observed
    )
    return set_condition(conditions, condition, now)
