"""/healthz, /readyz and /metrics that say something about the work, not about the socket.

- live: the event loop is not late and every informer's loop is turning. An apiserver that is down does not fail this:
  a restart would not bring it back.
- ready: every informer is synced and has heard from the apiserver lately. A standby replica is ready too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Never

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubecore import metrics
from kubecore.clock import Clock
from kubecore.informer import Informer

LAG_INTERVAL: Final = 1.0
MAX_LAG: Final = 10.0
READY_SILENCES: Final = 2.0
LIVE_SILENCES: Final = 3.0
SHUTDOWN_SECONDS: Final = 1.0


def stale_informers(informers: Sequence[Informer[Any]], now: float) -> list[str]:
    """Return why the caches cannot be trusted now: the reasons against readiness."""
    problems = []
    for informer in informers:
        reflector = informer.reflector
        quiet = now - reflector.last_success
        if not informer.synced:
            problems.append(f"{informer.res.plural}: not listed yet: {reflector.last_error or 'no answer yet'}")
        elif quiet > READY_SILENCES * reflector.timings.silence:
            problems.append(
                f"{informer.res.plural}: nothing heard for {quiet:.0f} s: {reflector.last_error or 'silence'}"
            )
    return problems


def stuck_informers(informers: Sequence[Informer[Any]], now: float) -> list[str]:
    """Return which informers' loops have stopped turning: a defect that only a restart mends."""
    problems = []
    for informer in informers:
        quiet = now - informer.reflector.last_attempt
        if quiet > LIVE_SILENCES * informer.reflector.timings.silence:
            problems.append(f"{informer.res.plural}: no attempt for {quiet:.0f} s")
    return problems


class LoopLag:
    """Measures how late the event loop runs its timers; blocking code shows here before it costs a lease."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 0.0

    async def run(self) -> Never:
        """Measure once a second until cancelled."""
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(LAG_INTERVAL)
            self.seconds = max(0.0, self._clock.monotonic() - before - LAG_INTERVAL)
            metrics.LOOP_LAG.set(self.seconds)

    def check(self) -> str | None:
        """Say so when the last measurement is beyond what a liveness probe should tolerate."""
        return f"event loop {self.seconds:.1f} s late" if self.seconds > MAX_LAG else None


@asynccontextmanager
async def serve_health(port: int, live: Callable[[], list[str]], ready: Callable[[], list[str]]) -> AsyncIterator[int]:
    """Serve /healthz and /readyz on all addresses while the block runs; yields the port (0 picks a free one)."""

    def answer(problems: list[str]) -> web.Response:
        return web.Response(
            status=503 if problems else 200, text="".join(f"{problem}\n" for problem in problems) or "ok\n"
        )

    async def healthz(_: web.Request) -> web.Response:
        return answer(live())

    async def readyz(_: web.Request) -> web.Response:
        return answer(ready())

    async with _serve(port, [web.get("/healthz", healthz), web.get("/readyz", readyz)]) as bound:
        yield bound


@asynccontextmanager
async def serve_metrics(port: int) -> AsyncIterator[int]:
    """Serve /metrics of the default registry on all addresses while the block runs; yields the port (0 picks a free one)."""

    async def scrape(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(generate_latest)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async with _serve(port, [web.get("/metrics", scrape)]) as bound:
        yield bound


@asynccontextmanager
async def _serve(port: int, routes: list[web.RouteDef]) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, None, port).start()
        # with port 0 each address family gets its own: the IPv4 one is told
        yield next((int(address[1]) for address in runner.addresses if len(address) == 2), port)
    finally:
        await runner.cleanup()
