"""A clock that moves only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta


class _FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback."""
        self.callback = None


class FakeClock:
    """Implements `kubecore.clock.Clock`. `advance` wakes sleepers and runs timers in the order of their deadlines."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._wall = start
        self._monotonic = 1000.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def now(self) -> datetime:
        """Return the fake wall time."""
        return self._wall

    def monotonic(self) -> float:
        """Return the fake monotonic time."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` moved the clock that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if woken.done() else woken.set_result(None))
        try:
            await woken
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> _FakeTimer:
        """Run `callback` when `advance` passes the deadline."""
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + max(0.0, seconds), next(self._order), timer))
        return timer

    @property
    def sleepers(self) -> int:
        """How many timers are pending: a test waits for this before it advances."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def tick(self, seconds: float) -> None:
        """Move both clocks and run what became due, without giving the loop a turn (for synchronous tests)."""
        target = self._monotonic + seconds
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            self._set(max(due, self._monotonic))
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        self._set(target)

    async def advance(self, seconds: float, step: float = 0.1) -> None:
        """Move both clocks in steps and let the event loop run between them, so that chains of sleeps play out in order."""
        target = self._monotonic + seconds
        await self._settle()
        while self._monotonic < target:
            self.tick(min(step, target - self._monotonic))
            await self._settle()

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back without any time passing (NTP, a resumed machine)."""
        self._wall += timedelta(seconds=seconds)

    def _set(self, monotonic: float) -> None:
        self._wall += timedelta(seconds=monotonic - self._monotonic)
        self._monotonic = monotonic

    @staticmethod
    async def _settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


class FastClock(FakeClock):
    """A clock of which `factor` seconds pass in one; a test may change that at any time.

    Down, before something that has to come in time: what else runs on the machine is as slow as it is.
    """

    def __init__(self, factor: float) -> None:
        super().__init__(start=datetime.now(UTC))
        self.factor = factor

    def resync(self) -> None:
        """Set the wall clock to the machine's, which others' time stamps are of: by now it has run ahead."""
        self.jump_wall((datetime.now(UTC) - self.now()).total_seconds())


@asynccontextmanager
async def fast_clock(factor: float) -> AsyncIterator[FastClock]:
    """A clock of which `factor` seconds pass in one, from now on."""
    clock = FastClock(factor)

    async def run() -> None:
        while True:
            await asyncio.sleep(0.02)
            await clock.advance(0.02 * clock.factor, step=0.5)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(run())
        try:
            yield clock
        finally:
            running.cancel()
