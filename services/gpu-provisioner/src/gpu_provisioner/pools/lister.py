"""The one shared LIST that watches every agent pool: often while something is under way, seldom otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from gpu_provisioner.cloud.base import AgentPools
from gpu_provisioner.cloud.failure import CloudError
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from kubecore.clock import Clock

log = logging.getLogger(__name__)
MAX_BACKOFF_SECONDS = 120.0


class PoolLister:
    """Reads all pools, takes them into the ledger, and wakes the pools that changed, vanished or are awaited."""

    def __init__(
        self,
        *,
        cloud: AgentPools,
        ledger: Ledger,
        metrics: Metrics,
        clock: Clock,
        active_seconds: float,
        idle_seconds: float,
        wake_pool: Callable[[str], None],
        awaited: Callable[[], set[str]],
        busy: Callable[[], bool],
    ) -> None:
        """`awaited` names the pools that a claim waits for, whether they exist or not: looked at once in the idle interval."""
        self._cloud = cloud
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._active = active_seconds
        self._idle = idle_seconds
        self._wake_pool = wake_pool
        self._awaited = awaited
        self._busy = busy
        self._soon = asyncio.Event()
        self._resynced = float("-inf")

    def request(self) -> None:
        """Something is under way: do not wait for the idle interval."""
        self._soon.set()

    async def run(self) -> None:
        """Lists until cancelled. A failed LIST changes nothing and backs off; the claims' state says so if it lasts."""
        failures = 0
        while True:
            wait = await self._list_once()
            busy = self._busy()  # counts the claims that wait, which is asked most while nothing can be listed
            failures = failures + 1 if wait is not None else 0
            if wait is not None:
                backoff = max(wait, min(MAX_BACKOFF_SECONDS, self._active * 2**failures)) * random.uniform(0.8, 1.2)
                await self._clock.sleep(backoff)
                continue
            await self._clock.sleep(min(self._active, self._idle))
            if not busy:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._idle - self._active)):
                        await self._soon.wait()
            self._soon.clear()

    async def _list_once(self) -> float | None:
        """None when the LIST was complete, else the seconds that the failure asks for."""
        started = self._clock.monotonic()
        try:
            pools = await self._cloud.list()
        except CloudError as error:
            self._metrics.failures.labels(error.failure.failure).inc()
            log.warning("cannot list the agent pools", extra={"reason": error.failure.failure, "error": str(error)})
            self._ledger.unreadable = error.failure
            for name in self._awaited():
                self._wake_pool(name)  # so that the claims say why nothing happens
            return error.failure.retry_after
        news = self._ledger.listed(pools, started)
        owned = {pool.name for pool in pools if pool.owned}
        self._metrics.pools.set(len(owned))
        strangers = {pool.name for pool in pools} - owned
        due = started - self._resynced >= self._idle
        if due:
            self._resynced = started
        for name in (news - strangers) | (self._awaited() if due else set()):
            self._wake_pool(name)
        return None
