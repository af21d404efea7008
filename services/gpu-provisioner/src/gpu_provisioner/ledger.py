"""What the process remembers between two looks. Nothing here is needed after a restart: claims, nodes and cloud say it again."""

from __future__ import annotations

from gpu_provisioner.cloud.failure import CloudFailure
from gpu_provisioner.pools.plan import ClaimOutcome, CloudPool, Outcome


class Ledger:
    """Outcomes by claim; per pool the last state, when it was seen first, and failures to wait out. Times are monotonic."""

    def __init__(self) -> None:
        self.outcomes: dict[str, ClaimOutcome] = {}
        self.released: set[str] = set()
        self.moving: set[str] = set()
        """Claims that leave their pool for another instance type."""
        self._pools: dict[str, CloudPool] = {}
        self._first_seen: dict[str, float] = {}
        self._machine_seen: dict[str, float] = {}
        self._changed: dict[str, float] = {}
        self._blocked: dict[str, tuple[CloudFailure, float]] = {}
        self._noted: dict[str, str] = {}
        self._listed_at = float("-inf")

    # --- pools as the cloud shows them
    def pool(self, name: str) -> CloudPool | None:
        """The pool as last seen."""
        return self._pools.get(name)

    @property
    def pools(self) -> tuple[CloudPool, ...]:
        """All pools as last seen."""
        return tuple(self._pools.values())

    def known(self, name: str) -> bool:
        """Whether the state of this pool was read after the last change that we sent."""
        return self._listed_at > self._changed.get(name, float("-inf"))

    def first_seen(self, name: str) -> float:
        """When the pool was noticed first; 0 for none."""
        return self._first_seen.get(name, 0.0)

    def show(self, pool: CloudPool, now: float) -> None:
        """The service answered with this pool: the newest knowledge there is."""
        self._pools[pool.name] = pool
        self._first_seen.setdefault(pool.name, now)
        self._changed.pop(pool.name, None)
        if pool.failure is not None and self._noted.get(pool.name) != pool.etag + pool.state:
            self._noted[pool.name] = pool.etag + pool.state
            self.block(pool.name, pool.failure, now)

    def hide(self, name: str) -> None:
        """The service said that there is no such pool."""
        self._pools.pop(name, None)
        self._first_seen.pop(name, None)
        self._noted.pop(name, None)
        self._changed.pop(name, None)

    def doubt(self, name: str, now: float) -> None:
        """We sent a change and do not know its effect: nothing is decided before the next look."""
        self._changed[name] = now

    def sure(self, name: str) -> None:
        """The change was refused: what we knew before holds."""
        self._changed.pop(name, None)

    def listed(self, pools: list[CloudPool], started: float) -> tuple[str, ...]:
        """Takes in a complete LIST that began at `started`; returns the names that it lacks and that must be asked for."""
        self._listed_at = started
        names = {pool.name for pool in pools}
        for pool in pools:
            if self._changed.get(pool.name, float("-inf")) < started:
                self.show(pool, started)
        return tuple(name for name in self._pools if name not in names)

    def machine_first_seen(self, provider_id: str, now: float) -> float:
        """When a machine's Node was noticed first."""
        return self._machine_seen.setdefault(provider_id, now)

    def forget_machines(self, present: set[str]) -> None:
        """Drops the machines whose Nodes are gone."""
        for provider_id in self._machine_seen.keys() - present:
            del self._machine_seen[provider_id]

    # --- failures
    def block(self, name: str, failure: CloudFailure, now: float) -> None:
        """No further PUT for this pool before the failure's time is over."""
        self._blocked[name] = (failure, now + failure.retry_after)

    def unblock(self, name: str) -> None:
        """The pool works again."""
        self._blocked.pop(name, None)

    def blocked(self, name: str, now: float) -> CloudFailure | None:
        """The failure that still has to be waited out."""
        entry = self._blocked.get(name)
        return entry[0] if entry is not None and now < entry[1] else None

    # --- claims
    def outcome(self, uid: str) -> ClaimOutcome:
        """What the pool's last decision means for the claim."""
        return self.outcomes.get(uid, ClaimOutcome(uid=uid, outcome=Outcome.WAITING, message="waiting for its turn"))

    def forget_claim(self, uid: str) -> None:
        """The claim is gone."""
        self.outcomes.pop(uid, None)
        self.released.discard(uid)
        self.moving.discard(uid)
