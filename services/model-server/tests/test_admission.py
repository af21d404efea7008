"""Admission, lifecycle and limits: what enters, what waits, what is counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kubecore.testing.asserts import eventually
from model_server.adapters.served import PublicNames
from model_server.admission import AdmissionMiddleware
from model_server.lifecycle import CURRENT, Lifecycle
from model_server.limits import Verdict, admit
from model_server.metrics import Metrics


@pytest.mark.parametrize(
    ("in_flight", "sequences", "expected"),
    [
        (0, 0, Verdict.ADMIT),
        (16, 16, Verdict.ADMIT),
        (17, 0, Verdict.BUSY),
        (1, 17, Verdict.BUSY),
    ],
)
def test_one_batch_may_wait_behind_the_running_one(in_flight: int, sequences: int, expected: Verdict) -> None:
    assert admit(accepting=True, rate_limit=True, in_flight=in_flight, sequences=sequences, batch=8) is expected


def test_the_guard_can_be_switched_off_and_the_drain_cannot() -> None:
    assert admit(accepting=True, rate_limit=False, in_flight=99, sequences=99, batch=1) is Verdict.ADMIT
    assert admit(accepting=False, rate_limit=False, in_flight=0, sequences=0, batch=1) is Verdict.DRAINING


class Call:
    """One ASGI request against the middleware, with an application that waits until it is let go."""

    def __init__(self, lifecycle: Lifecycle, metrics: Metrics, *, method: str = "POST", batch: int = 8) -> None:
        self.sent: list[Any] = []
        self.inside = asyncio.Event()
        self.go = asyncio.Event()
        self.names = PublicNames()
        self.scope: dict[str, Any] = {"type": "http", "method": method, "path": "/chat", "state": {}}
        self._middleware = AdmissionMiddleware(
            self._application,
            lifecycle=lifecycle,
            metrics=metrics,
            sequences=lambda: 0,
            batch=batch,
            rate_limit=True,
        )

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if "a" in self.names:
            await asyncio.get_running_loop().create_task(self._look_up())
        self.inside.set()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def _look_up(self) -> None:
        _ = self.names["a"]

    async def run(self) -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self._middleware(self.scope, receive, send)


class Request:
    lora_name = "a@1"


async def test_drain_waits_for_what_is_in_flight_and_refuses_what_is_new() -> None:
    lifecycle, metrics = Lifecycle(), Metrics(CollectorRegistry())
    first, second, probe = Call(lifecycle, metrics), Call(lifecycle, metrics), Call(lifecycle, metrics, method="GET")
    async with asyncio.TaskGroup() as group:
        group.create_task(first.run())
        await first.inside.wait()
        lifecycle.drain()
        idle = group.create_task(lifecycle.idle())
        await second.run()
        assert second.sent[0]["status"] == 503
        assert (b"retry-after", b"1") in second.sent[0]["headers"]
        assert json.loads(second.sent[1]["body"])["error"]["code"] == "draining"
        probe.go.set()
        await probe.run()
        assert probe.sent[0]["status"] == 200
        assert not idle.done()
        first.go.set()
        await idle
    assert first.sent[0]["status"] == 200
    assert lifecycle.in_flight == 0


async def test_requests_beyond_the_queue_are_429() -> None:
    lifecycle, metrics = Lifecycle(), Metrics(CollectorRegistry())
    calls = [Call(lifecycle, metrics, batch=1) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for call in calls[:3]:
            group.create_task(call.run())
            await call.inside.wait()
        await calls[3].run()
        for call in calls:
            call.go.set()
    assert [call.sent[0]["status"] for call in calls] == [200, 200, 200, 429]
    assert json.loads(calls[3].sent[1]["body"])["error"]["code"] == "rate_limit_exceeded"


async def test_a_version_is_in_use_until_its_request_ends() -> None:
    registry = CollectorRegistry()
    lifecycle, metrics = Lifecycle(), Metrics(registry)
    call = Call(lifecycle, metrics)
    call.names["a"] = Request()
    async with asyncio.TaskGroup() as group:
        group.create_task(call.run())
        await call.inside.wait()
        unused = group.create_task(lifecycle.unused("a@1"))
        await lifecycle.unused("a@2")
        await eventually(lambda: lifecycle.using("a@1") == 1)
        assert not unused.done()
        call.go.set()
        await unused
    labels = {"adapter": "a", "outcome": "2xx"}
    assert registry.get_sample_value("kaito_adapter_requests_total", labels) == 1
    assert CURRENT.get() is None


async def test_an_application_that_fails_is_counted_as_aborted_and_lands() -> None:
    registry = CollectorRegistry()
    lifecycle = Lifecycle()

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("engine")

    middleware = AdmissionMiddleware(
        broken, lifecycle=lifecycle, metrics=Metrics(registry), sequences=lambda: 0, batch=1, rate_limit=True
    )
    with pytest.raises(RuntimeError):
        await middleware({"type": "http", "method": "POST"}, None, None)  # type: ignore[arg-type]
    assert lifecycle.in_flight == 0
    labels = {"adapter": "(base)", "outcome": "aborted"}
    assert registry.get_sample_value("kaito_adapter_requests_total", labels) == 1


def test_ready_needs_engine_and_adapters() -> None:
    lifecycle = Lifecycle()
    seen = [lifecycle.ready]
    lifecycle.serve()
    seen.append(lifecycle.ready)
    lifecycle.adapters_settled = True
    seen.append(lifecycle.ready)
    lifecycle.drain()
    lifecycle.serve()
    seen.append(lifecycle.ready)
    assert seen == [False, False, True, False]
