"""Workers that take keys from a queue and call one reconcile function: what happens to its answer is decided here only.

The function gets a key, never an event: it reads the present state, moves the world one step, and says when to be called again.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kaito_api.meta import Key
from kubecore import metrics
from kubecore.backoff import BackoffPolicy
from kubecore.clock import Clock
from kubecore.errors import ApiError, Conflict, Invalid, NotLeader, TerminalError, TransportError
from kubecore.logging import log_context
from kubecore.workqueue import WorkQueue

logger = logging.getLogger(__name__)

RESULTS: Final = ("success", "requeue_after", "conflict", "error", "timeout", "terminal_error", "not_leader")


@dataclass(frozen=True, slots=True)
class Result:
    """When to look again although nothing changed. None: only when something changes.

    A time that has passed (zero or less) means as soon as possible, not never.
    """

    requeue_after: float | None = None
    """Seconds."""


Reconcile = Callable[[Key], Awaitable[Result | None]]


class Controller:
    """One reconcile function, its queue and its workers. Run it with a Manager."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 8,
        reconcile_timeout: float = 60,
        backoff: BackoffPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`reconcile_timeout` in seconds: a reconcile that takes longer is cancelled and retried with backoff."""
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._timeout = reconcile_timeout
        self.queue: WorkQueue[Key] = WorkQueue(
            clock=clock,
            backoff=backoff,
            depth=metrics.QUEUE_DEPTH.labels(name),
            wait=metrics.QUEUE_SECONDS.labels(name),
        )
        self._results = {result: metrics.RECONCILES.labels(name, result) for result in RESULTS}
        self._seconds = metrics.RECONCILE_SECONDS.labels(name)
        self._active = metrics.ACTIVE_WORKERS.labels(name)

    def enqueue(self, key: Key, low_priority: bool = False) -> None:
        """Ask for a reconcile of this key. Callable from event handlers, also before the workers run."""
        self.queue.add(key, low=low_priority)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Ask for a reconcile later; one that starts before then makes it void."""
        self.queue.add_after(key, seconds)

    async def run(self) -> None:
        """Work until `shutdown`; what is in work then is finished first."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"{self.name}-{number}")

    def shutdown(self) -> None:
        """Hand out no more keys."""
        self.queue.shutdown()

    async def _work(self) -> None:
        while (key := await self.queue.get()) is not None:
            self._active.inc()
            started = time.perf_counter()
            try:
                with log_context(
                    controller=self.name, namespace=key.namespace, name=key.name, reconcile_id=uuid.uuid4().hex[:12]
                ):
                    self._results[await self._once(key)].inc()
            finally:
                self._seconds.observe(time.perf_counter() - started)
                self._active.dec()
                self.queue.done(key)

    async def _once(self, key: Key) -> str:
        """Reconcile once, queue the key again as its outcome asks, and return the outcome's name."""
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                result = await self._reconcile(key)
        except TerminalError as error:
            self.queue.forget(key)
            logger.error("reconcile failed for good", extra={"reason": str(error)})  # noqa: TRY400 - expected, no trace
            return "terminal_error"
        except Conflict:
            self.queue.add_backoff(key)
            return "conflict"
        except NotLeader:
            return "not_leader"
        except Exception as error:  # noqa: BLE001
            # whatever a reconcile raises concerns its key only: it is reported, counted and retried
            timed_out = isinstance(error, TimeoutError) and deadline.expired()
            self._retry(key, error, timed_out)
            return "timeout" if timed_out else "error"
        self.queue.forget(key)
        if result is None or result.requeue_after is None:
            return "success"
        self.queue.add_after(key, result.requeue_after)
        return "requeue_after"

    def _retry(self, key: Key, error: Exception, timed_out: bool) -> None:
        retry_after: float = getattr(error, "retry_after", None) or 0.0
        delay = self.queue.add_backoff(key, at_least=retry_after)
        fields = {
            "reason": f"took longer than {self._timeout:g} s" if timed_out else str(error),
            "error_type": type(error).__name__,
            "failures": self.queue.failures(key),
            "retry_seconds": round(delay, 2),
        }
        metrics.RECONCILE_ERRORS.labels(self.name, type(error).__name__).inc()
        if timed_out or (isinstance(error, ApiError | TransportError) and not isinstance(error, Invalid)):
            logger.warning("reconcile failed, will retry", extra=fields)
        else:
            logger.error("reconcile failed unexpectedly, will retry", exc_info=error, extra=fields)
