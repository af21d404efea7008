"""An HTTP server that does what a test tells it: late, cut short, with wrong bytes, with traps in its headers.

It speaks plain HTTP/1.1 on 127.0.0.1 and records what it was asked, so that a test can say what a client must never send.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client sent; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What the server does. `body` pieces that are numbers are pauses in seconds."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Sequence[bytes | float] = b""
    length: int | None = None
    """Content-Length to claim; by default the truth."""
    hang_up: bool = False
    """Close the connection after the body."""
    head_pause: float = 0.0
    """Seconds between the bytes of the head."""
    after: asyncio.Event | None = None
    """Nothing is answered before it is set."""


Handler = Callable[[Request], Reply]
_REASONS = {200: "OK", 401: "Unauthorized"}


class ScriptedServer:
    """A running server."""

    def __init__(self, handler: Handler, host: str) -> None:
        self.handler = handler
        self.host = host
        self.requests: list[Request] = []
        self._tasks: set[asyncio.Task[None] | None] = set()

    def seen(self, method: str, path: str = "") -> list[Request]:
        """Requests of a method whose path contains a text."""
        return [request for request in self.requests if request.method == method and path in request.path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while (request := await _read(reader)) is not None:
                    self.requests.append(request)
                    if not await _answer(writer, request, self.handler(request)):
                        break
        finally:
            self._tasks.discard(task)
            writer.close()

    def stop(self) -> None:
        """Cut every connection."""
        for task in list(self._tasks):
            if task is not None:
                task.cancel()


@asynccontextmanager
async def scripted_server(
    handler: Handler, name: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Serve until the block ends. `name` is how clients call this host (`localhost` and `127.0.0.1` are two sites)."""
    running = ScriptedServer(handler, "")
    server = await asyncio.start_server(running.serve, "127.0.0.1", 0, ssl=tls)
    running.host = f"{name}:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        running.stop()
        server.close()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    first = (await reader.readline()).decode("latin-1").split()
    if len(first) != 3:
        return None
    headers: dict[str, str] = {}
    while line := (await reader.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(first[1])
    return Request(first[0], url.path, dict(parse_qsl(url.query)), headers, body)


async def _answer(writer: asyncio.StreamWriter, request: Request, reply: Reply) -> bool:
    if reply.after is not None:
        await reply.after.wait()
    pieces = [reply.body] if isinstance(reply.body, bytes) else reply.body
    length = sum(len(piece) for piece in pieces if isinstance(piece, bytes)) if reply.length is None else reply.length
    head = {"Content-Length": str(length), **reply.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    text = f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'X')}\r\n{lines}\r\n".encode()
    for position in range(len(text)) if reply.head_pause else ():
        writer.write(text[position : position + 1])
        await writer.drain()
        await asyncio.sleep(reply.head_pause)
    if not reply.head_pause:
        writer.write(text)
    for piece in pieces if request.method != "HEAD" else ():
        if isinstance(piece, bytes):
            writer.write(piece)
            await writer.drain()
        else:
            await asyncio.sleep(piece)
    await writer.drain()
    return not reply.hang_up
