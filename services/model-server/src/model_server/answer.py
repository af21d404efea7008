"""The answer to one request on its way out: how far it has come, and its end where the server cannot wait for it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from model_server.lifecycle import Flight

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

RETRY_AFTER_CUT_SECONDS: Final = 5
"""The time in which another pod, or this one's successor, is likelier to be there than after a single second."""
_STREAM: Final = b"text/event-stream"
_NAMED_EVENTS: Final = frozenset({"/v1/messages", "/v1/responses"})
"""Routes whose streams name their events; clients look for an error under its name there."""
Error = dict[str, Any]
"""An error as OpenAI's API words it."""

SHUT_DOWN: Final[Error] = {
    "type": "unavailable",
    "code": "draining",
    "message": "This server shut down before the answer was complete; ask again.",
}


class Ending(msgspec.Struct, frozen=True):
    """What still goes out to a client whose answer is cut short."""

    status: int
    """Status of an answer that has not begun; 0: it has."""
    body: bytes


def ending(error: Error, path: str, *, begun: bool, streams: bool) -> Ending | None:
    """Decide how an answer ends that will not be complete; None where nothing can be said any more. Pure.

    A stream gets the error as its last event: OpenAI's and Anthropic's clients raise it, where a connection that merely ends
    may pass for the end of the text.
    """
    if not begun:
        return Ending(503, json.dumps({"error": error}).encode())
    if not streams:
        return None
    if path in _NAMED_EVENTS:
        return Ending(0, f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n".encode())
    return Ending(0, f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode())


def broken_off(error: BaseException) -> Error:
    """Return what a client reads whose stream `error` ended. Pure.

    vLLM's errors about a request name the field that they are about; Starlette wraps what comes when a stream has begun.
    """
    for cause in (error, error.__cause__):
        field = getattr(cause, "parameter", None)
        if isinstance(field, str):
            return {"message": str(cause), "type": "BadRequestError", "param": field, "code": 400}
    message = "The server could not complete this answer; its log says why."
    return {"message": message, "type": "InternalServerError", "param": None, "code": 500}


class Answer:
    """Passes the application's messages on."""

    def __init__(self, flight: Flight, path: str, send: Send) -> None:
        self._flight = flight
        self._path = path
        self._send = send
        self._streams = False
        self.status = 0
        """HTTP status that was sent; 0: none yet."""
        self.whole = False
        """The last piece is out."""

    async def send(self, message: Message) -> None:
        """Send one message of the application, unless the answer was cut short."""
        if self._flight.is_cut:
            return  # what it says now is about its own end
        if message["type"] == "http.response.start":
            message = self._begin(message)
        self._flight.unsent = message
        try:
            await self._send(message)
        finally:
            self._flight.unsent = None
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    @property
    def is_open_stream(self) -> bool:
        """Whether it is a stream of events that has begun and is not complete."""
        return self._streams and not self.whole

    async def cut_short(self, error: Error) -> bool:
        """Say in the application's place why there is no more; False where nothing can be said."""
        end = ending(error, self._path, begun=self.status != 0, streams=self._streams)
        if end is None:
            return False
        if end.status:
            self.status = end.status
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(end.body)).encode()),
                (b"retry-after", str(RETRY_AFTER_CUT_SECONDS).encode()),
                (b"connection", b"close"),
            ]
            await self._send({"type": "http.response.start", "status": end.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": end.body})
        self.whole = True
        return True

    def _begin(self, message: Message) -> Message:
        self.status = message["status"]
        headers = list(message.get("headers", ()))
        self._streams = any(name == b"content-type" and value.startswith(_STREAM) for name, value in headers)
        if self._flight.retry_after:
            return {**message, "headers": [*headers, (b"retry-after", str(self._flight.retry_after).encode())]}
        return message
