"""The queue between "something changed" and "look at this key": client-go's workqueue with two priorities.

- A key is in the queue at most once, however often it is added.
- A key that is being worked on is never handed out a second time; adding it then queues it when it is done.
- Delayed keys wait in a heap; the earliest time asked for counts. Handing a key out cancels its pending delays: whoever works
  on it sees the present state and asks for the next wake-up itself.
- Failures back off per key, exponentially and with jitter, until `forget`.
- Fresh changes (normal priority) go before the backlog of the first list (low); adding a low key again as normal lifts it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from prometheus_client import Gauge, Histogram

from kubecore.backoff import BackoffPolicy
from kubecore.clock import Clock, SystemClock, Timer

K = TypeVar("K", bound=Hashable)

MIN_DELAY: Final = 0.01


class WorkQueue(Generic[K]):
    """For one event loop; all methods but `get` and `join` are synchronous."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        backoff: BackoffPolicy | None = None,
        depth: Gauge | None = None,
        wait: Histogram | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._policy = backoff or BackoffPolicy()
        self._depth = depth
        self._wait = wait
        self._normal: OrderedDict[K, float] = OrderedDict()  # ready keys and when they became so
        self._low: OrderedDict[K, float] = OrderedDict()
        self._working: set[K] = set()
        self._again: dict[K, bool] = {}  # added while in work: key -> low priority
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K, bool]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __len__(self) -> int:
        """Keys ready to be handed out."""
        return len(self._normal) + len(self._low)

    @property
    def in_work(self) -> int:
        """Keys handed out and not done."""
        return len(self._working)

    @property
    def delayed(self) -> int:
        """Keys waiting for their time."""
        return len(self._due)

    def add(self, key: K, *, low: bool = False) -> None:
        """Queue the key now. No effect after `shutdown`."""
        if self._closed:
            return
        if key in self._working:
            self._again[key] = low and self._again.get(key, True)
            return
        if key in self._normal:
            return
        since = self._clock.monotonic()
        if low:
            self._low.setdefault(key, since)
        else:
            self._normal[key] = self._low.pop(key, since)
        self._wake_one()
        self._measure()

    def add_after(self, key: K, seconds: float, *, low: bool = False) -> None:
        """Queue the key after a delay of at least 10 ms; an earlier time already set stays."""
        if self._closed:
            return
        due = self._clock.monotonic() + max(MIN_DELAY, seconds)
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key, low))
        self._arm()

    def add_backoff(self, key: K, *, at_least: float = 0.0) -> float:
        """Count a failure and queue the key after its backoff (or `at_least` seconds); return the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = max(at_least, self._policy.delay(failures, random.random()))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Start the key's backoff over: it succeeded, or it will not be tried again."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often the key failed in a row."""
        return self._failures.get(key, 0)

    async def get(self) -> K | None:
        """Return the next key, which counts as in work until `done`; None after `shutdown`."""
        while not self._closed:
            key = self._pop()
            if key is not None:
                return key
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake_one()  # the wake-up meant for this waiter goes to another one
                raise
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)
        return None

    def done(self, key: K) -> None:
        """Say that the work on the key ended, in whatever way. Raises KeyError when it was not in work."""
        self._working.remove(key)
        if key in self._again:
            self.add(key, low=self._again.pop(key))
        if not self._working:
            self._idle.set()

    def shutdown(self) -> None:
        """Take nothing more, drop what waits, and send every `get` home. What is in work goes on."""
        self._closed = True
        self._normal.clear()
        self._low.clear()
        self._again.clear()
        self._due.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
        for getter in self._getters:
            if not getter.done():
                getter.set_result(None)
        self._measure()

    async def join(self) -> None:
        """Wait until nothing is in work (the drain after `shutdown`)."""
        await self._idle.wait()

    def _pop(self) -> K | None:
        ready = self._normal or self._low
        if not ready:
            return None
        key, since = ready.popitem(last=False)
        self._due.pop(key, None)
        self._working.add(key)
        self._idle.clear()
        if self._wait is not None:
            self._wait.observe(self._clock.monotonic() - since)
        self._measure()
        return key

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self) -> None:
        """Keep one timer running, for the earliest delayed key. Entries that `_due` no longer knows are stale."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        first = self._heap[0][0] if self._heap else float("inf")
        if self._timer is not None and self._timer_at <= first:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = first
        if self._heap:
            self._timer = self._clock.call_later(first - self._clock.monotonic(), self._ripen)

    def _ripen(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, key, low = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key, low=low)
        self._arm()

    def _measure(self) -> None:
        if self._depth is not None:
            self._depth.set(len(self))
