"""A client-side token bucket with fair queueing, so that one Workspace with many pools does not starve the others."""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum

MARGIN_SECONDS = 5.0
"""A waiter that has not asked again this long after its time has lost interest."""


class Verb(StrEnum):
    """Calls that AKS limits separately, as metrics name them."""

    PUT = "put"
    DELETE = "delete"
    DELETE_MACHINES = "deleteMachines"
    READ = "get"


class FairBucket:
    """`burst` calls at once, then `per_second` more each second; owners take turns. Times are monotonic seconds.

    It never blocks: a caller that must wait is told for how long, and asks again then.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._rate = per_second
        self._tokens = burst
        self._at: float | None = None
        self._paused_until = 0.0
        self._waiting: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    def take(self, name: str, owner: str, now: float) -> float:
        """0.0 when `name` may call now, else the seconds after which to ask again."""
        self._refill(now)
        self._waiting.setdefault(owner, OrderedDict())[name] = now
        self._forget_silent(now)
        order = self._order()
        position = order.index((owner, name))
        if now >= self._paused_until and self._tokens >= position + 1:
            self._tokens -= 1
            self.leave(name, owner)
            if owner in self._waiting:
                self._waiting.move_to_end(owner)
            return 0.0
        wait = max(self._paused_until - now, (position + 1 - self._tokens) / self._rate, 0.05)
        self._waiting[owner][name] = now + wait
        return wait

    def leave(self, name: str, owner: str) -> None:
        """`name` has been served or has nothing to send any more."""
        names = self._waiting.get(owner)
        if names is not None:
            names.pop(name, None)
            if not names:
                del self._waiting[owner]

    def pause(self, seconds: float, now: float) -> None:
        """The service said Retry-After: nobody calls before, and what we thought was left is gone."""
        self._refill(now)
        self._tokens = min(self._tokens, 0.0) if seconds > 0 else self._tokens
        self._paused_until = max(self._paused_until, now + seconds)

    @property
    def waiting(self) -> int:
        """How many callers wait for their turn."""
        return sum(len(names) for names in self._waiting.values())

    def _refill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now

    def _order(self) -> list[tuple[str, str]]:
        """Round robin: everybody's first, then everybody's second, ..."""
        queues = [[(owner, name) for name in names] for owner, names in self._waiting.items()]
        return [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]

    def _forget_silent(self, now: float) -> None:
        for owner, names in list(self._waiting.items()):
            for name, due in list(names.items()):
                if now > due + MARGIN_SECONDS:
                    self.leave(name, owner)


class CallLimits:
    """A bucket for each verb. Source: AKS's limits for one cluster: PUT 20 and 1 a minute, others 60 and 1 a second."""

    def __init__(self, *, put: FairBucket, call_burst: float, calls_per_second: float) -> None:
        """`call_burst` and `calls_per_second` of every verb but PUT."""
        others = (verb for verb in Verb if verb is not Verb.PUT)
        self._buckets = {Verb.PUT: put} | {verb: FairBucket(call_burst, calls_per_second) for verb in others}

    def take(self, verb: Verb, name: str, owner: str, now: float) -> float:
        """0.0 when `name` may make this call now, else the seconds after which to ask again."""
        return self._buckets[verb].take(name, owner, now)

    def only(self, verb: Verb, name: str, owner: str) -> None:
        """`name` wants this change now and no other any more."""
        for other in (Verb.PUT, Verb.DELETE, Verb.DELETE_MACHINES):
            if other is not verb:
                self._buckets[other].leave(name, owner)

    def pause(self, verb: Verb, seconds: float, now: float) -> None:
        """The service said Retry-After to this call."""
        self._buckets[verb].pause(seconds, now)
