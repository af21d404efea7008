"""What the process remembers between two looks. Nothing here is needed after a restart: claims, nodes and cloud say it again."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from gpu_provisioner.cloud.bucket import Verb
from gpu_provisioner.cloud.failure import CloudFailure, FailureClass
from gpu_provisioner.pools.plan import ClaimOutcome, CloudPool, Hold, Outcome

_NEVER = float("-inf")
OUTAGE_SECONDS = 60.0
"""The longest pause after a call that Azure did not answer properly."""
REFUSED_SECONDS = 300.0
"""The pause after a removal that Azure refuses for good: the machine costs money all the while."""


class _Held(NamedTuple):
    failure: CloudFailure
    until: float
    times: int


class Ledger:
    """Outcomes by claim; per pool the last state, when it was seen first, and failures to wait out. Times are monotonic."""

    def __init__(self) -> None:
        self.outcomes: dict[str, ClaimOutcome] = {}
        self.released: set[str] = set()
        self.moving: set[str] = set()
        """Claims that leave their pool for another instance type."""
        self.replaced: set[str] = set()
        """Claims whose deletion was asked for because their machine is lost."""
        self.unreadable: CloudFailure | None = None
        """Why the pools cannot be listed, while that is so."""
        self._pools: dict[str, CloudPool] = {}
        self._as_of: dict[str, float] = {}
        self._absent: set[str] = set()
        self._unlisted: set[str] = set()
        self._first_seen: dict[str, float] = {}
        self._machine_seen: dict[str, float] = {}
        self._node_missed: dict[str, float] = {}
        self._awaited: dict[str, float] = {}
        self._deferred: dict[str, float] = {}
        self._drained: dict[str, float] = {}
        self._machines_listed: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._blocked: dict[str, tuple[CloudFailure, float]] = {}
        self._held: dict[str, dict[Verb, _Held]] = {}
        self._working: dict[str, tuple[str, float]] = {}
        self._claimants: dict[str, frozenset[str]] = {}
        self._absent_machines: dict[str, set[str]] = {}
        self._noted: dict[str, str] = {}
        self._listed_at = _NEVER

    # --- pools as the cloud shows them
    def pool(self, name: str) -> CloudPool | None:
        """The pool as last seen."""
        return self._pools.get(name)

    @property
    def pools(self) -> tuple[CloudPool, ...]:
        """All pools as last seen."""
        return tuple(self._pools.values())

    def known(self, name: str) -> bool:
        """Whether the state of this pool was read after the last change whose effect we do not know."""
        return max(self._listed_at, self._as_of.get(name, _NEVER)) > self._changed.get(name, _NEVER)

    def unproven(self, name: str) -> bool:
        """Whether the pool is missing from a LIST only: a LIST may be a part, so a GET has to say it too."""
        return name in self._unlisted if name in self._pools else name not in self._absent

    def first_seen(self, name: str) -> float:
        """When the pool was noticed first; 0 for none."""
        return self._first_seen.get(name, 0.0)

    def working_since(self, name: str) -> float | None:
        """Since when AKS has been working on the pool without a change of its state; None while it does not."""
        entry = self._working.get(name)
        return entry[1] if entry is not None else None

    def show(self, pool: CloudPool, now: float) -> None:
        """The service answered with this pool: the newest knowledge there is."""
        name = pool.name
        self._pools[name] = pool
        self._as_of[name] = now
        self._first_seen.setdefault(name, now)
        self._changed.pop(name, None)
        self._absent.discard(name)
        self._unlisted.discard(name)
        if pool.settled:
            self._working.pop(name, None)
        elif self._working.get(name, ("", 0.0))[0] != pool.state:
            self._working[name] = (pool.state, now)
        if pool.going:
            self._held.pop(name, None)  # taken, though no answer said so
        mark = pool.etag + pool.state
        if pool.failure is None:
            self._noted.pop(name, None)
        elif self._noted.get(name) != mark:
            self._noted[name] = mark
            self.block(name, pool.failure, now)

    def hide(self, name: str, now: float) -> None:
        """The service said about this very pool that there is none."""
        for memory in (self._pools, self._first_seen, self._noted, self._changed, self._machines_listed):
            memory.pop(name, None)
        self._working.pop(name, None)
        self._held.pop(name, None)
        self._absent_machines.pop(name, None)  # a pool of this name counts its machines from 0 again
        self._unlisted.discard(name)
        self._as_of[name] = now
        self._absent.add(name)

    def doubt(self, name: str, now: float) -> None:
        """A change was sent whose effect is not known: nothing is decided before a look that begins after `now`."""
        self._changed[name] = now
        self._absent.discard(name)

    def sure(self, name: str) -> None:
        """The change was refused: what we knew before holds."""
        self._changed.pop(name, None)

    def listed(self, pools: list[CloudPool], started: float) -> set[str]:
        """Takes in a complete LIST that began at `started`; returns the pools about which it says something new.

        What we learned about a pool after `started` is newer than the LIST and stays.
        """
        self._listed_at = started
        self.unreadable = None
        news = {name for name, changed in self._changed.items() if changed < started}
        for name in news:
            del self._changed[name]
        for pool in pools:
            if max(self._as_of.get(pool.name, _NEVER), self._changed.get(pool.name, _NEVER)) >= started:
                continue
            if self._pools.get(pool.name) != pool or self.unproven(pool.name):
                news.add(pool.name)
            self.show(pool, started)
        names = {pool.name for pool in pools}
        gone = {name for name in self._pools if name not in names and self._as_of.get(name, _NEVER) < started}
        self._unlisted |= gone
        return news | gone

    # --- machines and their Nodes
    def machine_first_seen(self, provider_id: str, now: float) -> float:
        """When a machine's Node was noticed first. It is no longer missed."""
        self._node_missed.pop(provider_id, None)
        return self._machine_seen.setdefault(provider_id, now)

    def node_missed(self, provider_id: str, now: float) -> float:
        """Since when a claim's machine has had no Node."""
        return self._node_missed.setdefault(provider_id, now)

    def defer(self, uid: str, until: float) -> None:
        """What nobody waits for is not written about this claim before `until`, whatever wakes it."""
        self._deferred[uid] = until

    def deferred(self, uid: str, now: float) -> float:
        """Seconds for which that still holds."""
        return max(0.0, self._deferred.get(uid, 0.0) - now)

    def awaited(self, uid: str, name: str, needed: int, now: float) -> float | None:
        """Since when the claim has been waiting for a Node though AKS is done; None while AKS is not, or has yet to be told."""
        pool = self._pools.get(name)
        if pool is None or pool.state != "Succeeded" or pool.count < needed:
            self._awaited.pop(uid, None)
            return None
        return self._awaited.setdefault(uid, now)

    def asked_anew(self, uid: str) -> None:
        """AKS was asked for the claim's machine just now: the wait for its Node begins when that is done."""
        self._awaited.pop(uid, None)

    def drained(self, uid: str, now: float) -> float:
        """Since when no pod that has to leave is on the claim's node any more."""
        return self._drained.setdefault(uid, now)

    def forget_machine(self, provider_id: str) -> None:
        """The Node is gone."""
        self._machine_seen.pop(provider_id, None)

    def machines_listed(self, name: str) -> float:
        """When the pool's machines were listed last."""
        return self._machines_listed.get(name, _NEVER)

    def machines_listed_now(self, name: str, now: float) -> None:
        """The pool's machines have just been listed."""
        self._machines_listed[name] = now

    def absent_machines(self, name: str) -> frozenset[str]:
        """Machines of the pool about which the service said that there is none."""
        return frozenset(self._absent_machines.get(name, ()))

    def machine_absent(self, name: str, machine: str) -> None:
        """The service said so about this very machine: what a LIST leaves out proves nothing."""
        self._absent_machines.setdefault(name, set()).add(machine)

    # --- failures
    def block(self, name: str, failure: CloudFailure, now: float) -> None:
        """No further PUT for this pool before the failure's time is over."""
        self._blocked[name] = (failure, now + failure.retry_after)

    def unblock(self, name: str) -> None:
        """The pool works again."""
        self._blocked.pop(name, None)

    def blocked(self, name: str, now: float) -> CloudFailure | None:
        """The failure that still has to be waited out, or why the pool's state cannot be read."""
        entry = self._blocked.get(name)
        if entry is not None and now < entry[1]:
            return entry[0]
        return None if self.known(name) else self.unreadable

    def blocked_for(self, name: str, now: float) -> float:
        """Seconds that the failure still has to be waited out."""
        entry = self._blocked.get(name)
        return max(0.0, entry[1] - now) if entry is not None else 0.0

    def hold(self, name: str, verb: Verb, failure: CloudFailure, now: float) -> None:
        """A removal or a read failed: it is not sent again before its time, and remembered until it succeeds."""
        before = self._held.setdefault(name, {}).get(verb)
        times = before.times + 1 if before is not None and before.failure.failure is failure.failure else 1
        wait = min(failure.retry_after, REFUSED_SECONDS) if failure.permanent else failure.retry_after
        if failure.failure is FailureClass.SERVER:
            wait = max(wait, min(wait * 2 ** (times - 1), OUTAGE_SECONDS))
        self._held[name][verb] = _Held(failure, now + wait, times)

    def succeeded(self, name: str, verb: Verb) -> bool:
        """The call was taken; whether it had failed before. With the pool's DELETE nothing else is left to be done."""
        held = self._held.get(name, {})
        if verb is Verb.DELETE:
            return self._held.pop(name, None) is not None
        return held.pop(verb, None) is not None

    def holds(self, name: str, now: float) -> dict[Verb, Hold]:
        """Failed removals of the pool until they succeed, and failed reads until their time is over: the newest first."""
        held = sorted(self._held.get(name, {}).items(), key=lambda entry: -entry[1].until)
        return {
            verb: Hold(each.failure, max(0.0, each.until - now))
            for verb, each in held
            if verb is not Verb.READ or each.until > now
        }

    def claimed_by(self, name: str, uids: Collection[str]) -> None:
        """The claims of a pool. What failed was asked for by claims: with the last of them its back-off goes.

        So a corrected claim of the same name is not held up by what the old one asked for.
        """
        before, now = self._claimants.get(name, frozenset()), frozenset(uids)
        if before and not before & now:
            self.unblock(name)
        if now:
            self._claimants[name] = now
        else:
            self._claimants.pop(name, None)

    # --- claims
    def outcome(self, uid: str) -> ClaimOutcome:
        """What the pool's last decision means for the claim."""
        return self.outcomes.get(uid, ClaimOutcome(uid=uid, outcome=Outcome.WAITING, message="waiting for its turn"))

    def forget_claim(self, uid: str) -> None:
        """The claim is gone, or starts over with another alternative."""
        outcome = self.outcomes.pop(uid, None)
        if outcome is not None:
            self._node_missed.pop(outcome.provider_id, None)
        self._awaited.pop(uid, None)
        self._deferred.pop(uid, None)
        self._drained.pop(uid, None)
        self.released.discard(uid)
        self.moving.discard(uid)
        self.replaced.discard(uid)
