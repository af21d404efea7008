"""The outermost layer of the application: admits requests, counts them, and refuses with words.

Plain ASGI: on the path of every streamed token it adds one function call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from fastapi import HTTPException

from model_server.answer import SHUT_DOWN, Answer, broken_off
from model_server.body import Body
from model_server.lifecycle import Flight, Lifecycle
from model_server.limits import RETRY_AFTER_BUSY_SECONDS, RETRY_AFTER_DRAINING_SECONDS, Verdict, admit
from model_server.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

UNUSED_BODY_SECONDS: Final = 5.0
"""How long a client that is refused anyway may take to send its body; its connection is closed afterwards."""

_REFUSALS: Final = {
    Verdict.BUSY: (
        429,
        RETRY_AFTER_BUSY_SECONDS,
        {"type": "requests", "code": "rate_limit_exceeded", "message": "The queue is full; try again later."},
    ),
    Verdict.DRAINING: (
        503,
        RETRY_AFTER_DRAINING_SECONDS,
        {"type": "unavailable", "code": "draining", "message": "This server is shutting down; try again."},
    ),
}


class AdmissionMiddleware:
    """ASGI middleware: every POST is work for the engine; everything else (probes, metrics, lists) passes."""

    def __init__(
        self,
        app: Application,
        *,
        lifecycle: Lifecycle,
        metrics: Metrics,
        sequences: Callable[[], int],
        batch: int,
        rate_limit: bool,
    ) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._sequences = sequences
        self._batch = batch
        self._rate_limit = rate_limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        verdict = admit(
            accepting=self._lifecycle.accepting,
            rate_limit=self._rate_limit,
            in_flight=self._lifecycle.in_flight,
            sequences=self._sequences(),
            batch=self._batch,
        )
        if verdict is Verdict.DRAINING:
            await _take(receive)
        if verdict is not Verdict.ADMIT:
            await self._refuse(verdict, send)
            return
        with self._lifecycle.flight() as flight:
            await self._forward(flight, scope, receive, send)

    async def _forward(self, flight: Flight, scope: Message, receive: Receive, send: Send) -> None:
        flight.task = asyncio.current_task()
        answer = Answer(flight, scope.get("path", ""), send)
        outcome = "aborted"
        self._metrics.in_flight.inc()
        try:
            await self._answer(flight, answer, scope, receive)
            outcome = "aborted" if flight.is_cut and answer.status < 500 else _outcome(answer.status)
        except Exception:
            # Starlette raises what it answered with 500 once more, for the log.
            outcome = _outcome(answer.status) if answer.status >= 500 else outcome
            raise
        finally:
            self._metrics.in_flight.dec()
            # vLLM leaves the final usage here for middleware; absent for routes that do not generate.
            metadata = scope.get("state", {}).get("request_metadata")
            self._metrics.count(flight.adapter, outcome, getattr(metadata, "final_usage_info", None))

    async def _answer(self, flight: Flight, answer: Answer, scope: Message, receive: Receive) -> None:
        try:
            await self._app(scope, Body(receive), answer.send)
        except asyncio.CancelledError:
            if not flight.is_cut:
                raise
        except Exception as error:
            if answer.is_open_stream and not flight.is_cut:
                await answer.cut_short(broken_off(error))
            raise
        if flight.is_cut and not answer.whole:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # the cancellation was ours, and has done its work
            if not await answer.cut_short(SHUT_DOWN):
                raise asyncio.CancelledError

    async def _refuse(self, verdict: Verdict, send: Send) -> None:
        status, retry_after, error = _REFUSALS[verdict]
        counter = self._metrics.rejected if verdict is Verdict.BUSY else self._metrics.refused_draining
        counter.inc()
        body = json.dumps({"error": error}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", str(retry_after).encode()),
        ]
        if verdict is Verdict.DRAINING:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _take(receive: Receive) -> None:
    """Read a body that is of no use: a connection closed with bytes unread is reset, and the answer with it."""
    body = Body(receive, seconds=UNUSED_BODY_SECONDS)
    with suppress(HTTPException):  # too long, or too slow
        while (message := await body())["type"] == "http.request" and message.get("more_body", False):
            pass


def _outcome(status: int) -> str:
    return f"{status // 100}xx" if status else "aborted"
