"""Waiting in tests for a state of the world instead of for time to pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(check: Callable[[], Awaitable[T]], timeout: float = ..., interval: float = ...) -> T: ...
@overload
async def eventually(check: Callable[[], T], timeout: float = ..., interval: float = ...) -> T: ...
async def eventually(check: Callable[[], T | Awaitable[T]], timeout: float = 30, interval: float = 0.02) -> T:
    """Call `check` (plain or async) until it returns something truthy, and return that.

    An AssertionError inside `check` counts as "not yet". Raises AssertionError with the last answer after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            answer = check()
            value = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as error:
            last = error
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not true within {timeout} s; last answer: {last!r}")
        await asyncio.sleep(interval)
