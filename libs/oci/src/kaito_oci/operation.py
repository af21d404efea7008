"""One call of this library while it runs in worker threads: cancelled from the event loop, felt in every socket.

oras-py and requests are synchronous and know only timeouts per system call, which a peer that sends a byte now and then never
reaches. Here a deadline, or the caller's cancellation, shuts the thread's socket down: the blocked call returns at once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from kaito_oci.errors import Cancelled

CURRENT: ContextVar[Operation] = ContextVar("kaito_oci_operation")

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Operation:
    """The threads, connections and cancellation of one pull or push."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[int, Any] = {}

    def track(self, connection: Any) -> None:
        """Remember the connection that this thread is about to use (anything with a `sock`)."""
        with self._lock:
            self._connections[threading.get_ident()] = connection
        self.check()

    def check(self) -> None:
        """Raise Cancelled once the caller has given up."""
        if self._cancelled.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleep in a worker thread, but not longer than until cancellation."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def cancel(self) -> None:
        """Give up: every thread of this operation leaves its current network call."""
        self._cancelled.set()
        with self._lock:
            connections = list(self._connections.values())
        for connection in connections:
            _shut(connection)

    def hang_up(self, thread: int) -> None:
        """Shut down the connection of one thread."""
        with self._lock:
            connection = self._connections.get(thread)
        if connection is not None:
            _shut(connection)


class Deadline:
    """Hangs up the calling thread's connection when `seconds` pass without `feed`."""

    def __init__(self, operation: Operation, seconds: float) -> None:
        self.expired = False
        self._operation = operation
        self._seconds = seconds
        self._thread = threading.get_ident()
        self._due = time.monotonic() + seconds
        self._timer: threading.Timer | None = None
        self._arm(seconds)

    def feed(self) -> None:
        """There was progress: the time starts anew."""
        self._due = time.monotonic() + self._seconds

    def stop(self) -> None:
        """No longer needed."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _arm(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        left = self._due - time.monotonic()
        if self._timer is None:
            return
        if left > 0:
            self._arm(left)
            return
        self.expired = True
        self._operation.hang_up(self._thread)


@contextmanager
def deadline(operation: Operation, seconds: float) -> Iterator[Deadline]:
    """A Deadline for the length of a block."""
    limit = Deadline(operation, seconds)
    try:
        yield limit
    finally:
        limit.stop()


async def in_thread(operation: Operation, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run `function` in a worker thread of this operation; cancellation reaches into it, and no thread is left behind."""
    context = copy_context()
    context.run(CURRENT.set, operation)
    work = asyncio.get_running_loop().run_in_executor(None, partial(context.run, partial(function, *args, **kwargs)))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        operation.cancel()
        with suppress(Exception):  # what the thread says on its way out no longer matters: the caller gave up
            await work
        raise


def _shut(connection: Any) -> None:
    sock = connection.sock
    if isinstance(sock, socket.socket):
        with suppress(OSError):
            # The base class's method: an SSLSocket's own would first try to say goodbye politely.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
