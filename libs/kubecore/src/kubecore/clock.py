"""Time as a dependency, so that leases, backoff and liveness are tested without waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """A callback that was put off."""

    def cancel(self) -> None:
        """Forget the callback; no effect once it ran."""


class Clock(Protocol):
    """Wall time for what is written to the API, monotonic time for every decision about elapsed time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never jump."""

    async def sleep(self, seconds: float) -> None:
        """Wait; a delay of zero or less only yields to the loop."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the event loop after a delay."""


class SystemClock:
    """The machine's clocks and the running event loop."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait; a delay of zero or less only yields to the loop."""
        await asyncio.sleep(max(0.0, seconds))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` on the running event loop after a delay."""
        return asyncio.get_running_loop().call_later(max(0.0, seconds), callback)
