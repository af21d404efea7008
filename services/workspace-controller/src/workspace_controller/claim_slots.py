"""Pure: which slot each observed claim fills, which slots need a claim, and which claims are surplus."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import ClaimCondition, ClaimReason, MachineConditionType, Status, find_condition
from kaito_api.machine import Machine
from kaito_api.meta import Condition
from workspace_controller.claims import Claim

_NEVER: Final = frozenset(
    {
        ClaimReason.INSTANCE_TYPE_NOT_AVAILABLE,
        ClaimReason.SKU_NOT_AVAILABLE,
        ClaimReason.ZONE_NOT_SUPPORTED,
        ClaimReason.INVALID_CLAIM,
        ClaimReason.INVALID_REQUEST,
    }
)
"""Reasons that no time heals, whatever the status beside them."""
_REFUSED: Final = frozenset({ClaimReason.QUOTA_EXCEEDED, ClaimReason.INSUFFICIENT_CAPACITY, ClaimReason.UNAUTHORIZED})
"""Reasons that are final where a NodeClaim says False. A Machine (v1alpha5) says False of what is still being tried, too."""
_FIRST_RETRY: Final = timedelta(minutes=1)
_LAST_RETRY: Final = timedelta(minutes=30)


class SlotPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about the slots."""

    live: tuple[Claim, ...] = ()
    """One claim a filled slot, in slot order."""
    creates: tuple[tuple[int, int], ...] = ()
    """(slot, attempt) of the claims to make."""
    deletes: tuple[Claim, ...] = ()
    failed: tuple[str, ...] = ()
    """Messages of the slots whose claim has failed for good and may not be replaced yet."""
    requeue_after: float | None = None


def plan_slots(claims: Sequence[Claim], uid: str, target: int, brought: int, now: datetime) -> SlotPlan:
    """Plan `target` slots, of which `brought` are filled by nodes without a claim of ours.

    A claim without a UID (made by another controller under our labels) fills the lowest slot that is free and is never
    deleted. A slot whose claim failed for good is retried with growing pauses.
    """
    ours = sorted((claim for claim in claims if _uid(claim) == uid), key=_order)
    adopted = [claim for claim in claims if not _uid(claim) and not claim.metadata.deleting]
    filled, duplicates = _by_slot([claim for claim in ours if not claim.metadata.deleting])
    deletes = duplicates + [claim for slot, claim in filled.items() if slot >= target]
    kept = {slot: claim for slot, claim in filled.items() if slot < target}
    for claim in sorted(adopted, key=lambda claim: claim.metadata.name):
        free = next(slot for slot in range(len(kept) + 1) if slot not in kept)
        kept[free] = claim
    creates: list[tuple[int, int]] = []
    failed: list[str] = []
    waits: list[float] = []
    for slot, claim in sorted(kept.items()):
        failure = _failure(claim)
        if failure is None or _uid(claim) != uid:
            continue
        wait = _wait(failure, _attempt(claim), now)
        if wait > 0:
            failed.append(f"{claim.metadata.name}: {failure.reason}: {failure.message}")
            waits.append(wait)
        else:
            creates.append((slot, _next_attempt(ours, slot)))
            deletes.append(claim)
            del kept[slot]
    room = max(0, target - brought) - len(kept) - len(creates)
    empty = [slot for slot in range(target) if slot not in kept and slot not in {slot for slot, _ in creates}]
    creates += [(slot, _next_attempt(ours, slot)) for slot in empty[: max(0, room)]]
    return SlotPlan(
        live=tuple(claim for _, claim in sorted(kept.items())),
        creates=tuple(sorted(creates)),
        deletes=tuple(deletes),
        failed=tuple(failed),
        requeue_after=min(waits, default=None),
    )


def _by_slot(claims: Sequence[Claim]) -> tuple[dict[int, Claim], list[Claim]]:
    """Return the claim to keep for each slot (Ready ones first, then the earliest attempt), and the others."""
    best: dict[int, Claim] = {}
    others: list[Claim] = []
    for claim in sorted(claims, key=_preference):
        if _slot(claim) in best:
            others.append(claim)
        else:
            best[_slot(claim)] = claim
    return best, others


def _preference(claim: Claim) -> tuple[bool, bool, int, int, str]:
    return (not _ready(claim), _failure(claim) is not None, *_order(claim))


def _next_attempt(ours: Sequence[Claim], slot: int) -> int:
    return max((_attempt(claim) + 1 for claim in ours if _slot(claim) == slot), default=0)


def _failure(claim: Claim) -> Condition | None:
    if _ready(claim):
        return None
    machine = isinstance(claim, Machine)
    launched = MachineConditionType.LAUNCHED if machine else ClaimCondition.LAUNCHED
    condition = find_condition(claim.status.conditions, launched)
    if condition is None or condition.status != Status.FALSE:
        return None
    final = condition.reason in _NEVER or (not machine and condition.reason in _REFUSED)
    return condition if final else None


def _wait(failure: Condition, attempt: int, now: datetime) -> float:
    """Return the seconds until a claim that failed at this attempt may be replaced: 1, 2, 4 ... 30 minutes after it."""
    if failure.last_transition_time is None:
        return 0.0
    pause = min(_FIRST_RETRY * (1 << min(attempt, 10)), _LAST_RETRY)
    return max(0.0, (failure.last_transition_time + pause - now).total_seconds())


def _ready(claim: Claim) -> bool:
    condition = find_condition(claim.status.conditions, ClaimCondition.READY)
    return condition is not None and condition.status == Status.TRUE


def _uid(claim: Claim) -> str:
    return claim.metadata.annotations.get(labels.WORKSPACE_UID, "")


def _slot(claim: Claim) -> int:
    return _number(claim, labels.CLAIM_SLOT)


def _attempt(claim: Claim) -> int:
    return _number(claim, labels.CLAIM_ATTEMPT)


def _number(claim: Claim, annotation: str) -> int:
    text = claim.metadata.annotations.get(annotation, "")
    return int(text) if text.isdecimal() and len(text) < 7 else 0


def _order(claim: Claim) -> tuple[int, int, str]:
    return (_slot(claim), _attempt(claim), claim.metadata.name)
