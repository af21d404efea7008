"""Where the server stands between start and end, and what is in flight. One object, used by routes and shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Final


class Phase(StrEnum):
    """Phases in their order; each is also the state in the pod's report."""

    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"


class Flight:
    """One HTTP request from its first to its last byte."""

    __slots__ = ("adapter", "demand", "engine_name", "is_cut", "retry_after", "task", "unsent")

    def __init__(self) -> None:
        self.adapter = ""
        """Public name of the adapter that it uses, or asks for while it is not served; "" for the base model."""
        self.engine_name = ""
        """The engine's name of that adapter's version."""
        self.demand = ""
        """The field of its body that says which form the answer must have; "" for none."""
        self.retry_after = 0
        """Seconds after which the client should ask again, for the answer's header; 0: none."""
        self.unsent: object | None = None
        """The piece of the answer that waits until the client has read earlier ones; None: none waits."""
        self.task: asyncio.Task[Any] | None = None
        """What answers it; None: nothing that can be cut."""
        self.is_cut = False
        """The server does not wait for the rest of the answer."""

    def cut(self) -> None:
        """End the work on the answer; whoever awaits it says so to the client."""
        if self.task is not None and not self.is_cut:
            self.is_cut = True
            self.task.cancel()


CURRENT: Final[ContextVar[Flight | None]] = ContextVar("model_server_flight", default=None)
"""The request that the running task works for."""


class Lifecycle:
    """The server's phase and its requests in flight. Belongs to one event loop."""

    def __init__(self) -> None:
        self._phase = Phase.LOADING
        self._flights: set[Flight] = set()
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.adapters_settled = False
        """Whether every adapter that was named at start is served or has failed for good."""
        self.keys_missing = False
        """Whether clients need an API key and there is none: every request is refused then."""

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    @property
    def accepting(self) -> bool:
        """Whether new requests are admitted."""
        return self._phase is not Phase.DRAINING

    @property
    def ready(self) -> bool:
        """Whether the pod should get traffic from the Service."""
        return self._phase is Phase.READY and self.adapters_settled and not self.keys_missing

    @property
    def waiting_for(self) -> str:
        """What keeps an engine that answers from being ready: `adapters`, `apiKeys`, or "" for nothing of that kind."""
        if not self.accepting:
            return ""
        return "adapters" if not self.adapters_settled else "apiKeys" if self.keys_missing else ""

    @property
    def in_flight(self) -> int:
        """Number of requests in flight."""
        return len(self._flights)

    def using(self, engine_name: str) -> int:
        """Number of requests in flight that looked up the adapter version of that engine name."""
        return sum(1 for flight in self._flights if flight.engine_name == engine_name)

    def waiting_for_client(self, engine_name: str) -> dict[Flight, object]:
        """Requests on that adapter version whose client does not read at present, each with the piece that waits for it."""
        flights = (flight for flight in self._flights if flight.engine_name == engine_name)
        return {flight: flight.unsent for flight in flights if flight.unsent is not None}

    def serve(self) -> None:
        """The engine answers."""
        if self._phase is Phase.LOADING:
            self._phase = Phase.READY

    def drain(self) -> None:
        """Admit no new request from now on."""
        self._phase = Phase.DRAINING

    @contextmanager
    def flight(self) -> Iterator[Flight]:
        """Count a request for as long as the context lasts."""
        flight = Flight()
        self._flights.add(flight)
        token = CURRENT.set(flight)
        try:
            yield flight
        finally:
            CURRENT.reset(token)
            self._flights.discard(flight)
            if self._watchers:
                self._wake()

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._until(lambda: not self._flights)

    def cut(self) -> None:
        """End what is in flight: each client is told, in place of the rest of its answer."""
        for flight in tuple(self._flights):
            flight.cut()

    async def unused(self, engine_name: str) -> None:
        """Wait until no request in flight uses that adapter version."""
        await self._until(lambda: self.using(engine_name) == 0)

    async def _until(self, condition: Callable[[], bool]) -> None:
        if condition():
            return
        watcher = (condition, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            await watcher[1]
        finally:
            self._watchers.remove(watcher)

    def _wake(self) -> None:
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(None)
