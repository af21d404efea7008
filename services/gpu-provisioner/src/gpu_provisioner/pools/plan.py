"""What to do with one agent pool: a pure decision from what its claims ask for and what the cloud and the nodes show.

Rules that hold whatever the order of events:
- a pool that is not ours is never touched;
- a machine is bound to a claim once, by providerID, oldest claim first, and never re-bound;
- PUT never lowers the count: machines leave by name only, and the last one takes the pool along;
- at most one verb is in flight per pool, except that a DELETE goes out at once, also during a create.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gpu_provisioner.cloud.bucket import Verb
from gpu_provisioner.cloud.failure import CloudFailure, FailureClass

SURPLUS_SECONDS = 30.0
"""How long a machine without a claim must have been seen before it is removed, and a Node be missed before AKS is asked."""
MACHINES_SECONDS = 60.0
"""How often a pool's machines are listed, at most, to explain a count or a missing Node."""


REGISTRATION_SECONDS = 900.0
"""How long a machine that AKS has made may take to join the cluster. Source: Karpenter's registration limit."""


OPERATION_SECONDS = 1800.0
"""How long AKS may work on a pool before its claims learn that it is stuck: GPU pools take 3 to 8 minutes."""


class CloudPool(msgspec.Struct, frozen=True, kw_only=True):
    """An agent pool as the cloud shows it. `settled` is False while AKS works on it."""

    name: str
    state: str
    count: int
    owned: bool
    vm_size: str = ""
    etag: str = ""
    failure: CloudFailure | None = None

    @property
    def settled(self) -> bool:
        """Whether AKS has stopped working on it: a state that we do not know counts as work in progress."""
        return self.state in ("Succeeded", "Failed", "Canceled")

    @property
    def going(self) -> bool:
        """Whether it is being deleted."""
        return self.state == "Deleting"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the pool with a Node. `first_seen` is in monotonic seconds."""

    name: str
    provider_id: str
    first_seen: float


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """A claim on the pool, oldest first in its list.

    `deleting`: it wants no machine of this pool any more (deleted, or moving on to another instance type).
    `released`: nothing runs on its node any more. `missed_since`: since when its machine has had no Node (monotonic seconds).
    `awaited_since`: since when AKS has been done with the pool and no Node has come for the claim (monotonic seconds).
    """

    uid: str
    provider_id: str = ""
    deleting: bool = False
    released: bool = False
    missed_since: float | None = None
    awaited_since: float | None = None


class Outcome(StrEnum):
    """What a pool's decision means for one claim."""

    WAITING = "Waiting"
    BOUND = "Bound"
    FAILED = "Failed"
    GONE = "Gone"
    """The claim's machine is proven gone: the finalizer may go."""
    VANISHED = "Vanished"
    """The machine is gone though the claim wants it: the claim must be replaced."""
    NEVER_JOINED = "NeverJoined"
    """AKS has made the machine and no Node came in time: the claim must be replaced."""


class ClaimOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome for the claim `uid`."""

    uid: str
    outcome: Outcome
    provider_id: str = ""
    failure: CloudFailure | None = None
    message: str = ""


class Put(msgspec.Struct, frozen=True):
    """Create the pool, or raise its count."""

    count: int


class Delete(msgspec.Struct, frozen=True):
    """Delete the pool with all its machines."""


class DeleteMachines(msgspec.Struct, frozen=True):
    """Delete these machines; the others stay."""

    names: tuple[str, ...]


Action = Put | Delete | DeleteMachines


class Hold(msgspec.Struct, frozen=True):
    """A call that failed and is not sent again for `seconds`; 0: it may, but has not succeeded yet."""

    failure: CloudFailure
    seconds: float


class PoolObservation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the decision rests on.

    `pool` is None when the cloud has none; `known` says that this was read after the last change that we sent, and
    `first_seen` (monotonic seconds) when the pool was noticed first. `unproven`: that there is no such pool is said by a LIST
    only, which may be a part. `machines` are those with a Node; `listed` the names that the cloud lists, or None where it
    was not asked, and `listed_at` when it was asked last; `absent` names machines about which it said that there is none.
    `blocked` is a failure of PUT, or of the operation, that is still to be waited out; `holds` has the other calls that failed.
    `unreadable` says why the pools cannot be read now. `working_since` (monotonic seconds): how long AKS has been in this state.
    """

    claims: tuple[Demand, ...]
    pool: CloudPool | None
    known: bool
    unproven: bool = False
    first_seen: float = 0.0
    machines: tuple[Machine, ...] = ()
    listed: frozenset[str] | None = None
    listed_at: float = float("-inf")
    blocked: CloudFailure | None = None
    blocked_for: float = 0.0
    absent: frozenset[str] = frozenset()
    holds: dict[Verb, Hold] = {}
    unreadable: CloudFailure | None = None
    working_since: float | None = None


class PoolDecision(msgspec.Struct, frozen=True, kw_only=True):
    """At most one call to the cloud, and what each claim learns.

    `wants_pool`: ask the cloud for this very pool first. `wants_machines`: list the pool's machines first. `wants_proof`: ask for
    these very machines, which the list left out. `failure`: why the action is taken; the claims keep it as their reason.
    """

    action: Action | None = None
    outcomes: tuple[ClaimOutcome, ...] = ()
    wants_pool: bool = False
    wants_machines: bool = False
    wants_proof: tuple[str, ...] = ()
    failure: CloudFailure | None = None
    recheck_after: float | None = None


def plan_pool(seen: PoolObservation, now: float) -> PoolDecision:
    """The decision for one pool at `now` (monotonic seconds)."""
    if not seen.known:
        return PoolDecision(outcomes=_waiting(seen, "reading the agent pools"))
    if seen.unproven and (seen.pool is not None or any(c.deleting or c.provider_id for c in seen.claims)):
        # Only a claim that has nothing yet may go on: its PUT is refused should the pool exist after all.
        return PoolDecision(outcomes=_waiting(seen, "looking for the agent pool"), wants_pool=True)
    if seen.pool is not None and not seen.pool.owned:
        return _taken(seen, seen.pool)
    bindings = bind(seen.claims, seen.machines)
    if seen.pool is None:
        return _without_pool(seen, bindings)
    return _with_pool(seen, seen.pool, bindings, now)


def stuck(seen: PoolObservation, now: float) -> CloudFailure | None:
    """The failure of a pool on which AKS has been working for too long."""
    pool = seen.pool
    if pool is None or pool.settled or seen.working_since is None or now - seen.working_since < OPERATION_SECONDS:
        return None
    return CloudFailure(
        failure=FailureClass.STUCK,
        code="OperationStuck",
        message=f"AKS has been working on the agent pool {pool.name} ({pool.state}) for more than "
        f"{OPERATION_SECONDS / 60:.0f} minutes",
        retry_after=60.0,
    )


def bind(claims: tuple[Demand, ...], machines: tuple[Machine, ...]) -> dict[str, str]:
    """Uid to providerID: stored bindings first, then free machines to the oldest live claims without one."""
    bound = {claim.uid: claim.provider_id for claim in claims if claim.provider_id}
    taken = set(bound.values())
    free = [m.provider_id for m in sorted(machines, key=lambda m: (m.first_seen, m.name)) if m.provider_id not in taken]
    waiting = [claim.uid for claim in claims if not claim.provider_id and not claim.deleting]
    return bound | dict(zip(waiting, free, strict=False))


def _taken(seen: PoolObservation, pool: CloudPool) -> PoolDecision:
    failure = CloudFailure(
        failure=FailureClass.NAME_TAKEN,
        code="PoolNameTaken",
        message=f"the agent pool {pool.name} exists and does not carry this provisioner's mark; it is not touched",
        retry_after=60.0,
    )
    return PoolDecision(
        outcomes=tuple(
            ClaimOutcome(uid=c.uid, outcome=Outcome.GONE)
            if c.deleting
            else ClaimOutcome(uid=c.uid, outcome=Outcome.FAILED, failure=failure)
            for c in seen.claims
        ),
        recheck_after=60.0,
    )


def _without_pool(seen: PoolObservation, bindings: dict[str, str]) -> PoolDecision:
    """No pool: deleting claims are done, bound ones lost their machine, the others need a PUT."""
    outcomes = []
    wanted = 0
    for claim in seen.claims:
        if claim.deleting:
            outcomes.append(ClaimOutcome(uid=claim.uid, outcome=Outcome.GONE))
        elif claim.provider_id:
            outcomes.append(ClaimOutcome(uid=claim.uid, outcome=Outcome.VANISHED))
        elif claim.uid in bindings:
            outcomes.append(ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=bindings[claim.uid]))
        else:
            wanted += 1
            outcomes.append(_pending(claim.uid, seen.blocked))
    if not wanted:
        return PoolDecision(outcomes=tuple(outcomes))
    if seen.blocked is not None:
        return PoolDecision(outcomes=tuple(outcomes), recheck_after=seen.blocked_for)
    return PoolDecision(action=Put(wanted), outcomes=tuple(outcomes))


def _with_pool(seen: PoolObservation, pool: CloudPool, bindings: dict[str, str], now: float) -> PoolDecision:
    outcomes = _outcomes(seen, pool, bindings)
    if not any(not c.deleting or (c.provider_id and not c.released) for c in seen.claims):
        return _without_claims(seen, pool, outcomes, now)
    if not pool.settled:
        return _working(seen, pool, outcomes, now)
    unasked = seen.listed is None and not _seconds(seen, Verb.READ)  # what cannot be read holds up nothing else
    if late := _late(seen, pool, bindings, now):
        if unasked:
            return PoolDecision(outcomes=outcomes, wants_machines=True)
        if silent := _silent(seen, bindings):
            return _give_up(late, silent, outcomes, alone=not any(c.uid not in late for c in seen.claims))
    names, wait = _leaving(seen, bindings, now)
    if seen.listed is None:
        ask, later = _doubtful(seen, pool, bindings, now)
        refused = _seconds(seen, Verb.DELETE_MACHINES)
        if names and refused and now - seen.listed_at < MACHINES_SECONDS:
            wait = refused  # the list was wanted for what may not be sent yet
        elif names or ask:
            if unasked:
                return PoolDecision(outcomes=outcomes, wants_machines=True)
            wait = _seconds(seen, Verb.READ)
        wait = min((w for w in (wait, later) if w), default=None)
    present = tuple(name for name in names if seen.listed is not None and name in seen.listed)
    if present:
        return PoolDecision(action=DeleteMachines(present), outcomes=outcomes)
    otherwise = PoolDecision(outcomes=outcomes, wants_proof=_doubted(seen), recheck_after=wait)
    return _grow(seen, pool, bindings, otherwise)


def _seconds(seen: PoolObservation, verb: Verb) -> float:
    """For how long a failed call must not be sent again."""
    hold = seen.holds.get(verb)
    return hold.seconds if hold is not None else 0.0


def _working(seen: PoolObservation, pool: CloudPool, outcomes: tuple[ClaimOutcome, ...], now: float) -> PoolDecision:
    """AKS works on the pool: wait, but not without limit. A stuck pool goes where nobody has a machine in it."""
    failure = stuck(seen, now)
    if failure is None:
        left = None if seen.working_since is None else seen.working_since + OPERATION_SECONDS - now
        return PoolDecision(outcomes=outcomes, recheck_after=left)
    if pool.going or seen.machines or any(c.provider_id for c in seen.claims):
        return PoolDecision(outcomes=outcomes)
    return PoolDecision(action=Delete(), outcomes=outcomes, failure=failure)


def _doubted(seen: PoolObservation) -> tuple[str, ...]:
    """Machines of claims that the list leaves out, and about which the answer decides: a list may be a part."""
    if seen.listed is None:
        return ()
    present = {m.provider_id for m in seen.machines}
    asked = (c for c in seen.claims if c.provider_id and (c.released if c.deleting else c.provider_id not in present))
    names = {machine_name(c.provider_id) for c in asked}
    return tuple(sorted(names - seen.listed - seen.absent))


def _late(seen: PoolObservation, pool: CloudPool, bindings: dict[str, str], now: float) -> frozenset[str]:
    """Claims whose machine should have joined by now."""
    if pool.state != "Succeeded":
        return frozenset()
    waiting = (c for c in seen.claims if not c.deleting and c.uid not in bindings and c.awaited_since is not None)
    return frozenset(c.uid for c in waiting if now - (c.awaited_since or 0.0) >= REGISTRATION_SECONDS)


def _silent(seen: PoolObservation, bindings: dict[str, str]) -> tuple[str, ...]:
    """Machines that AKS lists and that have neither a Node nor a claim."""
    named = {m.name for m in seen.machines} | {machine_name(p) for p in bindings.values()}
    return tuple(sorted((seen.listed or frozenset()) - named))


def _give_up(
    late: frozenset[str], silent: tuple[str, ...], outcomes: tuple[ClaimOutcome, ...], *, alone: bool
) -> PoolDecision:
    """Remove the machines that never joined together with their claims, so that the next claim does not wait for them."""
    minutes = int(REGISTRATION_SECONDS // 60)
    message = f"the machine did not join the cluster within {minutes} minutes ({', '.join(silent[:3])})"
    told = tuple(
        ClaimOutcome(uid=o.uid, outcome=Outcome.NEVER_JOINED, message=message) if o.uid in late else o for o in outcomes
    )
    return PoolDecision(action=Delete() if alone else DeleteMachines(silent[: len(late)]), outcomes=told)


def _doubtful(
    seen: PoolObservation, pool: CloudPool, bindings: dict[str, str], now: float
) -> tuple[bool, float | None]:
    """Whether to list the machines now, or after how long.

    They are in doubt where the count does not explain what is there: more machines than claims, a claim without a machine
    though there should be one, a claim's machine without a Node.
    """
    wanted = sum(1 for c in seen.claims if c.provider_id or not c.deleting)
    since = [c.missed_since for c in seen.claims if c.missed_since is not None and not c.deleting]
    pending = any(not c.deleting and c.uid not in bindings for c in seen.claims)
    if (pending and pool.state == "Succeeded" and pool.count >= wanted) or (not pending and pool.count > wanted):
        since.append(seen.first_seen)
    if not since:
        return False, None
    due = max(min(since) + SURPLUS_SECONDS, seen.listed_at + MACHINES_SECONDS)
    return now >= due, max(0.0, due - now)


def _without_claims(
    seen: PoolObservation, pool: CloudPool, outcomes: tuple[ClaimOutcome, ...], now: float
) -> PoolDecision:
    """Nobody needs the pool: DELETE at once for leaving claims, after a while for a pool that never had one."""
    if pool.going:
        return PoolDecision(outcomes=outcomes)
    age = now - seen.first_seen
    if not seen.claims and age < SURPLUS_SECONDS:
        return PoolDecision(outcomes=outcomes, recheck_after=SURPLUS_SECONDS - age)
    return PoolDecision(action=Delete(), outcomes=outcomes)


def _grow(seen: PoolObservation, pool: CloudPool, bindings: dict[str, str], otherwise: PoolDecision) -> PoolDecision:
    """Raise the count, or send a failed pool's PUT again, while a live claim has no machine and no failure is waited out."""
    if all(c.deleting or c.uid in bindings for c in seen.claims):
        return otherwise
    if seen.blocked is not None:
        return msgspec.structs.replace(otherwise, recheck_after=seen.blocked_for)
    needed = sum(1 for c in seen.claims if not c.deleting or c.provider_id)
    short = seen.listed is not None and len(seen.listed) < needed
    if pool.count < needed or pool.state != "Succeeded" or short:
        return msgspec.structs.replace(otherwise, action=Put(max(pool.count, needed)))
    return otherwise


def _leaving(seen: PoolObservation, bindings: dict[str, str], now: float) -> tuple[tuple[str, ...], float | None]:
    """Machines to remove by name: those of released claims, and those that belong to nobody for long enough."""
    released = {c.provider_id for c in seen.claims if c.released and c.provider_id}
    kept = set(bindings.values()) - released
    gone = [m.name for m in seen.machines if m.provider_id in released]
    with_node = {m.provider_id for m in seen.machines}
    gone += [machine_name(provider_id) for provider_id in sorted(released - with_node)]
    surplus = [m for m in seen.machines if m.provider_id not in kept and m.provider_id not in released]
    old = [m.name for m in surplus if now - m.first_seen >= SURPLUS_SECONDS]
    pending = any(not c.deleting and c.uid not in bindings for c in seen.claims)
    if seen.listed is not None and not pending:
        named = {m.name for m in seen.machines} | {machine_name(p) for p in kept}
        old += sorted(seen.listed - named)  # booted, but no Node ever came
    wait = SURPLUS_SECONDS if surplus and not old else None
    return tuple(dict.fromkeys(gone + old)), wait


def _outcomes(seen: PoolObservation, pool: CloudPool, bindings: dict[str, str]) -> tuple[ClaimOutcome, ...]:
    """What each claim learns while the pool exists."""
    found = []
    present = {m.provider_id for m in seen.machines}
    for claim in seen.claims:
        if claim.deleting:
            # The binding is kept: it may not be stored on the claim yet.
            leave = _leave(claim, seen, pool)
            found.append(ClaimOutcome(uid=claim.uid, outcome=leave, provider_id=claim.provider_id))
        elif claim.provider_id:
            lost = claim.provider_id not in present and _machine_gone(seen, claim.provider_id) and pool.settled
            outcome = Outcome.VANISHED if lost else Outcome.BOUND
            found.append(ClaimOutcome(uid=claim.uid, outcome=outcome, provider_id=claim.provider_id))
        elif claim.uid in bindings:
            found.append(ClaimOutcome(uid=claim.uid, outcome=Outcome.BOUND, provider_id=bindings[claim.uid]))
        else:
            found.append(_pending(claim.uid, seen.blocked or pool.failure))
    return tuple(found)


def _machine_gone(seen: PoolObservation, provider_id: str) -> bool:
    """Whether the cloud has said about this very machine that there is none, and its list does not say otherwise."""
    name = machine_name(provider_id)
    return seen.listed is not None and name not in seen.listed and name in seen.absent


def _leave(claim: Demand, seen: PoolObservation, pool: CloudPool) -> Outcome:
    """A deleting claim is gone when the cloud lists no machine of it and none can still come; its Node may linger."""
    if not pool.settled:
        return Outcome.WAITING
    if claim.provider_id:
        return Outcome.GONE if claim.released and _machine_gone(seen, claim.provider_id) else Outcome.WAITING
    others = [c for c in seen.claims if c.provider_id or not c.deleting]
    return Outcome.GONE if others else Outcome.WAITING


def _pending(uid: str, failure: CloudFailure | None) -> ClaimOutcome:
    if failure is not None:
        return ClaimOutcome(uid=uid, outcome=Outcome.FAILED, failure=failure)
    return ClaimOutcome(uid=uid, outcome=Outcome.WAITING, message="AKS is making the machine")


def _waiting(seen: PoolObservation, message: str) -> tuple[ClaimOutcome, ...]:
    """Nothing is decided. A claim that has nothing yet says what it waits for, a failure where there is one."""
    return tuple(
        ClaimOutcome(uid=c.uid, outcome=Outcome.FAILED, failure=seen.blocked)
        if seen.blocked is not None and not c.deleting and not c.provider_id
        else ClaimOutcome(uid=c.uid, outcome=Outcome.WAITING, provider_id=c.provider_id, message=message)
        for c in seen.claims
    )


def machine_name(provider_id: str) -> str:
    """AKS's machine name for a scale-set instance: the scale set's name and the instance number in base 36, six digits.

    `azure:///.../virtualMachineScaleSets/aks-p-1-vmss/virtualMachines/10` is the machine `aks-p-1-vmss00000a`.
    Anything else is returned as its last path element.
    """
    parts = provider_id.split("/")
    if len(parts) < 4 or parts[-2].lower() != "virtualmachines" or not parts[-1].isdigit():
        return parts[-1].lower()
    number, digits = int(parts[-1]), ""
    while True:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
        if not number:
            return f"{parts[-3].lower()}{digits:0>6}"
