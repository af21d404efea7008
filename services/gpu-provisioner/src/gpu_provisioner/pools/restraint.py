"""What has failed is neither asked for again before its time nor kept from the claims that wait for it: pure."""

from __future__ import annotations

import msgspec

from gpu_provisioner.cloud.bucket import Verb
from gpu_provisioner.cloud.failure import CloudFailure
from gpu_provisioner.pools.plan import (
    ClaimOutcome,
    Delete,
    DeleteMachines,
    Outcome,
    PoolDecision,
    PoolObservation,
    stuck,
)


def restrain(seen: PoolObservation, decision: PoolDecision, now: float) -> PoolDecision:
    """The decision without what may not be sent again yet, and with the reason told to the claims that wait for it."""
    held = _held_back(seen, decision)
    return msgspec.structs.replace(held, outcomes=_told(seen, held.outcomes, stuck(seen, now)))


def _held_back(seen: PoolObservation, decision: PoolDecision) -> PoolDecision:
    if isinstance(decision.action, Delete):
        verb = Verb.DELETE
    elif isinstance(decision.action, DeleteMachines):
        verb = Verb.DELETE_MACHINES
    elif decision.wants_pool or decision.wants_machines or decision.wants_proof:
        verb = Verb.READ
    else:
        return decision
    hold = seen.holds.get(verb)
    if hold is None or hold.seconds <= 0:
        return decision
    wait = hold.seconds if decision.recheck_after is None else min(hold.seconds, decision.recheck_after)
    if verb is Verb.READ:
        return msgspec.structs.replace(
            decision, wants_pool=False, wants_machines=False, wants_proof=(), recheck_after=wait
        )
    return msgspec.structs.replace(decision, action=None, recheck_after=wait)


def _told(
    seen: PoolObservation, outcomes: tuple[ClaimOutcome, ...], overdue: CloudFailure | None
) -> tuple[ClaimOutcome, ...]:
    """The outcomes, with the reason for everybody who waits though something has failed."""
    going = next((hold.failure for hold in seen.holds.values()), None) or seen.unreadable or overdue
    read = seen.holds.get(Verb.READ)
    coming = read.failure if read is not None else overdue
    leaving = {c.uid for c in seen.claims if c.deleting}
    told = []
    for each in outcomes:
        changes: dict[str, object] = {}
        if each.uid in leaving:
            if each.outcome is Outcome.WAITING and going is not None:
                changes = {"failure": going, "message": going.removal}
        elif each.outcome is Outcome.WAITING and not each.provider_id and coming is not None:
            changes = {"outcome": Outcome.FAILED, "failure": coming, "message": ""}
        told.append(msgspec.structs.replace(each, **changes))
    return tuple(told)
