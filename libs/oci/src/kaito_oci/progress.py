"""Progress of transfers, carried from worker threads to a callback in the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called in the event loop with bytes done and bytes in all; about five times a second, and once at the end."""

_INTERVAL = 0.2


class Meter:
    """Adds up bytes from several threads."""

    def __init__(self, callback: ProgressCallback | None, total: int) -> None:
        self._callback = callback
        self._total = total
        self._done = 0
        self._next = 0.0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()

    def add(self, count: int) -> None:
        """Some bytes more (or fewer, when a transfer starts anew)."""
        if self._callback is None:
            return
        now = time.monotonic()
        with self._lock:
            self._done += count
            if now < self._next and self._done < self._total:
                return
            self._next = now + _INTERVAL
            # Under the lock: of two threads the one that has counted more must not be heard first.
            self._loop.call_soon_threadsafe(self._callback, min(self._done, self._total), self._total)
