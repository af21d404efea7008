"""When a process calls itself ready and alive; the numbers come from a fake clock."""

from __future__ import annotations

import asyncio

import pytest

from kaito_api.core import ConfigMap
from kaito_api.resources import CONFIGMAPS
from kubecore.client import Client
from kubecore.health import LoopLag, stale_informers, stuck_informers
from kubecore.informer import Informer
from kubecore.reflector import Timings
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock
from kubecore.testing.server import ScriptedServer, bookmark, listing, status, until, watch


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def informer(client: Client, clock: FakeClock) -> Informer[ConfigMap]:
    return Informer(client, CONFIGMAPS, timings=Timings(silence=70), clock=clock)


async def test_not_synced_is_not_ready_but_alive(informer: Informer[ConfigMap], clock: FakeClock) -> None:
    assert stale_informers([informer], clock.monotonic()) == ["configmaps: not listed yet: no answer yet"]
    assert stuck_informers([informer], clock.monotonic()) == []


async def test_silence_ends_readiness_and_a_loop_that_stands_still_ends_life(
    informer: Informer[ConfigMap], clock: FakeClock
) -> None:
    informer.replaced([], "1")
    assert stale_informers([informer], clock.monotonic()) == []
    clock.tick(141)
    assert stale_informers([informer], clock.monotonic()) == ["configmaps: nothing heard for 141 s: silence"]
    assert stuck_informers([informer], clock.monotonic()) == []
    clock.tick(70)
    assert stuck_informers([informer], clock.monotonic()) == ["configmaps: no attempt for 211 s"]


async def test_an_apiserver_that_is_away_for_long_kills_nobody(
    server: ScriptedServer, informer: Informer[ConfigMap], clock: FakeClock
) -> None:
    server.on("GET", "/api/v1/configmaps", status(500, "InternalError"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        for _ in range(40):
            before = server.count("GET")
            await eventually(lambda: clock.sleepers)
            await clock.advance(10)
            await eventually(lambda seen=before: server.count("GET") > seen)
        task.cancel()
    assert stuck_informers([informer], clock.monotonic()) == []
    assert "500 InternalError" in stale_informers([informer], clock.monotonic())[0]


async def test_bookmarks_are_activity(server: ScriptedServer, informer: Informer[ConfigMap], clock: FakeClock) -> None:
    gate = asyncio.Event()
    server.on("GET", "/api/v1/configmaps", listing(1))
    server.on("WATCH", "/api/v1/configmaps", watch(until(gate), bookmark(2), until(asyncio.Event())))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        await eventually(lambda: server.count("WATCH"))
        clock.tick(150)
        assert stale_informers([informer], clock.monotonic()) != []
        gate.set()
        await eventually(lambda: stale_informers([informer], clock.monotonic()) == [])
        task.cancel()


async def test_a_late_event_loop_is_told(clock: FakeClock) -> None:
    lag = LoopLag(clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lag.run())
        await clock.advance(1)
        assert lag.check() is None
        await eventually(lambda: clock.sleepers)
        clock.tick(1)
        clock.tick(14)  # the loop got no turn meanwhile
        await eventually(lambda: lag.check() == "event loop 14.0 s late")
        task.cancel()
