"""Starts, joins and stops everything that a controller process consists of.

    start   health and metrics -> informers -> caches synced -> leadership -> controllers and leader-only tasks
    stop    not ready -> controllers take no more keys -> work in hand ends -> leader-only tasks end -> events flushed
            -> lease released -> informers end -> health closed

Losing the lease is no orderly stop: everything is cancelled where it stands, `run` raises LeaderLost and the process exits.
So does a task that ends in an error: half a controller is worse than a restarted one.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from kaito_api.meta import Object
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.controller import Controller
from kubecore.events import EventRecorder
from kubecore.health import LoopLag, serve_health, serve_metrics, stale_informers, stuck_informers
from kubecore.informer import Informer
from kubecore.leader import LeaderConfig, LeaderElector

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
TaskFunction = Callable[[], Coroutine[Any, Any, Any]]

FLUSH_SECONDS: Final = 2.0


class _Task(NamedTuple):
    name: str
    function: TaskFunction
    leader_only: bool


class Manager:
    """Add the parts, then await `run()` once, inside the transport's `async with`."""

    def __init__(
        self,
        client: Client,
        clock: Clock | None = None,
        *,
        health_port: int | None = 8081,
        metrics_port: int | None = 8080,
        leader: LeaderConfig | None = None,
        drain_seconds: float = 20.0,
        sync_seconds: float = 120.0,
    ) -> None:
        """With `leader`, `client` is fenced: it writes only while this process holds the lease.

        A port of None is not served, 0 picks a free one. `drain_seconds` is what work in hand may take at the stop: keep it
        below the pod's terminationGracePeriodSeconds. Caches that do not sync within `sync_seconds` end the process.
        """
        self.client = client
        self.clock = clock or SystemClock()
        self._ports = (health_port, metrics_port)
        self._drain_seconds = drain_seconds
        self._sync_seconds = sync_seconds
        self._informers: list[Informer[Any]] = []
        self._controllers: list[Controller] = []
        self._tasks: list[_Task] = []
        self._recorders: list[EventRecorder] = []
        self._stopping = asyncio.Event()
        self._elector: LeaderElector | None = None
        self.health_port = 0
        self.metrics_port = 0
        if leader is not None:
            self._elector = LeaderElector(Client(client.transport), leader, self.clock)
            client.fence = lambda: self.is_leader

    @property
    def is_leader(self) -> bool:
        """Whether this process may write; always, where there is no election."""
        return self._elector is None or self._elector.is_leader

    def add_informer(self, informer: Informer[T]) -> Informer[T]:
        """Run the informer for the process's whole life, standby time included, and return it."""
        self._informers.append(informer)
        return informer

    def add_controller(self, controller: Controller) -> Controller:
        """Run the controller's workers while leading, and return it."""
        self._controllers.append(controller)
        return controller

    def add_recorder(self, recorder: EventRecorder) -> EventRecorder:
        """Send the recorder's events, and flush them at the stop."""
        self._recorders.append(recorder)
        return recorder

    def add_task(self, name: str, function: TaskFunction, leader_only: bool = True) -> None:
        """Run `function` once: while leading, or from the start. It may return; when it raises, the process ends."""
        self._tasks.append(_Task(name, function, leader_only))

    def stop(self) -> None:
        """Begin the orderly stop, as SIGTERM does."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or `stop`, then drain. Raises LeaderLost, TimeoutError (caches), and what a task raised."""
        try:
            async with AsyncExitStack() as stack:
                stack.enter_context(_signals(self.stop))
                lag = LoopLag(self.clock)
                await self._serve(stack, lag)
                async with asyncio.TaskGroup() as group:
                    background = [
                        group.create_task(lag.run(), name="loop-lag"),
                        *(group.create_task(i.run(), name=f"informer-{i.res.plural}") for i in self._informers),
                        *(group.create_task(recorder.run(), name="events") for recorder in self._recorders),
                        *(group.create_task(t.function(), name=t.name) for t in self._tasks if not t.leader_only),
                    ]
                    await self._work()
                    for task in background:
                        task.cancel()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
        logger.info("stopped")

    async def _serve(self, stack: AsyncExitStack, lag: LoopLag) -> None:
        health_port, metrics_port = self._ports

        def live() -> list[str]:
            late = lag.check()
            return [*stuck_informers(self._informers, self.clock.monotonic()), *([late] if late else [])]

        def ready() -> list[str]:
            if self._stopping.is_set():
                return ["stopping"]
            return stale_informers(self._informers, self.clock.monotonic())

        if health_port is not None:
            self.health_port = await stack.enter_async_context(serve_health(health_port, live, ready))
        if metrics_port is not None:
            self.metrics_port = await stack.enter_async_context(serve_metrics(metrics_port))

    async def _work(self) -> None:
        """Sync, lead, work, drain. Returns when all of that came to its orderly end."""
        if not await self._unless_stopped(self._sync()):
            return
        if self._elector is None:
            await self._lead()
            return
        try:
            if await self._unless_stopped(self._elector.acquire()):
                await self._lead()
        finally:
            await self._elector.release()

    async def _sync(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.wait_synced(self._sync_seconds))
        logger.info("caches synced", extra={"objects": {i.res.plural: len(i) for i in self._informers}})

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(self._elector.hold(), name="lease") if self._elector else None
            tasks = [group.create_task(t.function(), name=t.name) for t in self._tasks if t.leader_only]
            workers = [group.create_task(c.run(), name=c.name) for c in self._controllers]
            await self._stopping.wait()
            logger.info("stopping: draining work in hand")
            for controller in self._controllers:
                controller.shutdown()
            if workers:
                _, late = await asyncio.wait(workers, timeout=self._drain_seconds)
                if late:
                    logger.warning(
                        "drain took too long, cancelling", extra={"controllers": [t.get_name() for t in late]}
                    )
                for task in late:
                    task.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*workers, *tasks, return_exceptions=True)
            for recorder in self._recorders:
                await recorder.flush(FLUSH_SECONDS)
            if holding is not None:
                holding.cancel()

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """Await `work`; False when the stop was asked for first."""
        async with asyncio.TaskGroup() as group:
            main = group.create_task(_run(work))
            stop = group.create_task(self._stopping.wait())
            await asyncio.wait((main, stop), return_when=asyncio.FIRST_COMPLETED)
            finished = main.done()
            main.cancel()
            stop.cancel()
        return finished


async def _run(work: Awaitable[None]) -> None:
    await work


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error inside: with cancellation as the only way to stop siblings, the first is the cause."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def _signals(callback: Callable[[], None]) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a call for as long as the block runs."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
