"""What a controller does with each outcome of its reconcile function."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import StringIO
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY

from kaito_api.meta import Key
from kubecore.backoff import BackoffPolicy
from kubecore.controller import Controller, Result
from kubecore.errors import Conflict, Invalid, NotLeader, TerminalError, TooManyRequests, TransportError
from kubecore.logging import JsonFormatter
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock

A, B = Key("n", "a"), Key("n", "b")
QUICK = BackoffPolicy(base=0.01, cap=0.05)


@asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(controller.run())
        yield
        controller.shutdown()


def results(name: str) -> dict[str, float]:
    names = ("success", "requeue_after", "conflict", "error", "timeout", "terminal_error", "not_leader")
    values = {
        n: REGISTRY.get_sample_value("kubecore_reconcile_total", {"controller": name, "result": n}) for n in names
    }
    return {n: value for n, value in values.items() if value}


def failing(*errors: Exception) -> tuple[list[Key], Callable[[Key], Awaitable[Result | None]]]:
    """A reconcile that raises these in turn and then succeeds."""
    calls: list[Key] = []
    left = list(errors)

    async def reconcile(key: Key) -> None:
        calls.append(key)
        if left:
            raise left.pop(0)

    return calls, reconcile


@pytest.mark.parametrize(
    ("error", "calls", "outcome"),
    [
        (TerminalError("no such preset"), 1, {"terminal_error": 1}),
        (NotLeader("lost"), 1, {"not_leader": 1}),
        (Conflict(409, "Conflict", "changed"), 2, {"conflict": 1, "success": 1}),
        (TransportError("refused"), 2, {"error": 1, "success": 1}),
        (Invalid(422, "Invalid", "bad"), 2, {"error": 1, "success": 1}),
        (ValueError("defect"), 2, {"error": 1, "success": 1}),
        (TimeoutError("from somewhere inside"), 2, {"error": 1, "success": 1}),
        (ExceptionGroup("several", [ValueError("x")]), 2, {"error": 1, "success": 1}),
    ],
)
async def test_outcomes(error: Exception, calls: int, outcome: dict[str, float]) -> None:
    name = f"outcome-{type(error).__name__}"
    made, reconcile = failing(error)
    controller = Controller(name, reconcile, backoff=QUICK)
    async with running(controller):
        controller.enqueue(A)
        await eventually(lambda: results(name) == outcome)
        assert controller.queue.failures(A) == 0
    assert len(made) == calls


async def test_throttling_is_obeyed() -> None:
    made, reconcile = failing(TooManyRequests(429, "TooManyRequests", "slow down", retry_after=5.0))
    clock = FakeClock()
    controller = Controller("throttled", reconcile, backoff=QUICK, clock=clock)
    async with running(controller):
        controller.enqueue(A)
        await eventually(lambda: controller.queue.delayed)
        await clock.advance(4.9)
        assert len(made) == 1
        await clock.advance(0.2)
        await eventually(lambda: len(made) == 2)


async def test_a_reconcile_that_hangs_is_cancelled_and_retried() -> None:
    cancelled = []

    async def reconcile(_: Key) -> None:
        if cancelled:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    controller = Controller("hanging", reconcile, reconcile_timeout=0.1, backoff=QUICK)
    async with running(controller):
        controller.enqueue(A)
        await eventually(lambda: results("hanging") == {"timeout": 1, "success": 1})


async def test_requeue_after() -> None:
    times: list[float] = []

    async def reconcile(_: Key) -> Result:
        times.append(asyncio.get_running_loop().time())
        return Result(requeue_after=0.1 if len(times) < 3 else None)

    controller = Controller("again", reconcile)
    async with running(controller):
        controller.enqueue(A)
        await eventually(lambda: results("again") == {"requeue_after": 2, "success": 1})
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(times))


async def test_one_key_is_never_worked_on_twice_at_once_and_others_go_on() -> None:
    inside: set[Key] = set()
    most = 0
    calls = 0

    async def reconcile(key: Key) -> None:
        nonlocal most, calls
        calls += 1
        assert key not in inside
        inside.add(key)
        most = max(most, len(inside))
        await asyncio.sleep(0.02)
        inside.remove(key)

    controller = Controller("parallel", reconcile, workers=4)
    async with running(controller):
        for turn in range(200):
            controller.enqueue(Key("n", str(turn % 7)))
            await asyncio.sleep(0.0005)
        await eventually(lambda: len(controller.queue) + controller.queue.in_work == 0)
    assert most == 4
    assert "error" not in results("parallel")
    assert calls <= 200


async def test_shutdown_lets_work_in_hand_end_and_drops_the_rest() -> None:
    finished: list[Key] = []
    go = asyncio.Event()

    async def reconcile(key: Key) -> None:
        await go.wait()
        finished.append(key)

    controller = Controller("draining", reconcile, workers=1)
    async with asyncio.TaskGroup() as group:
        running_task = group.create_task(controller.run())
        controller.enqueue(A)
        controller.enqueue(B)
        await eventually(lambda: controller.queue.in_work == 1)
        controller.shutdown()
        assert not running_task.done()
        go.set()
    assert finished == [A]


async def test_every_log_line_says_which_reconcile_it_belongs_to() -> None:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("kubecore.test.controller")
    logger.setLevel("INFO")
    logger.addHandler(handler)

    async def reconcile(key: Key) -> None:
        logger.info("looking", extra={"size": 3})

    controller = Controller("logging", reconcile)
    async with running(controller):
        controller.enqueue(A)
        controller.enqueue(B)
        await eventually(lambda: results("logging") == {"success": 2})
    logger.removeHandler(handler)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["controller"], line["namespace"], line["name"], line["size"]) for line in lines] == [
        ("logging", "n", "a", 3),
        ("logging", "n", "b", 3),
    ]
    assert len({line["reconcile_id"] for line in lines}) == 2
