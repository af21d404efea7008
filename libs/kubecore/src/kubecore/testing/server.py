"""A scripted apiserver for fault drills: it speaks HTTP, list and watch, and misbehaves exactly as told.

It knows no semantics (versions, patches, defaults): what must behave like Kubernetes is tested on a real kube-apiserver.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from kubecore.config import ClusterConfig

Step = Callable[[web.Request, web.StreamResponse], Awaitable[None]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def obj(name: str, version: int, namespace: str = "default", **fields: Any) -> dict[str, Any]:
    """Return a minimal object."""
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata, **fields}


def reply(
    body: Any, status: int = 200, headers: dict[str, str] | None = None, content_type: str = "application/json"
) -> Answer:
    """Answer with a body: text or bytes as they are, anything else as JSON."""

    async def answer(_: web.Request) -> web.Response:
        data = (
            body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        )
        return web.Response(body=data, status=status, headers=headers, content_type=content_type)

    return answer


def listing(version: int, *objects: dict[str, Any], more: str = "") -> Answer:
    """Answer a list; `more` is the continue token of the next page."""
    return reply({"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(objects)})


def status(code: int, reason: str, message: str = "scripted", retry_after: int | None = None) -> Answer:
    """Answer with a metav1.Status."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return reply(status_body(code, reason, message), code, headers)


def status_body(code: int, reason: str, message: str = "scripted") -> dict[str, Any]:
    """Return a metav1.Status about some object."""
    head = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "details": {"name": "scripted"}}
    return {**head, "code": code, "reason": reason, "message": message}


def slow(seconds: float, then: Answer) -> Answer:
    """Answer late."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await then(request)

    return answer


def watch(*steps: Step) -> Answer:
    """Answer a watch: 200, then the steps in order, then a regular end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for step in steps:
            await step(request, response)
        return response

    return answer


def event(kind: str, body: dict[str, Any]) -> Step:
    """Send one watch event."""
    return raw(json.dumps({"type": kind, "object": body}).encode() + b"\n")


def bookmark(version: int) -> Step:
    """Send a bookmark."""
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def raw(data: bytes) -> Step:
    """Send bytes as they are."""

    async def step(_: web.Request, response: web.StreamResponse) -> None:
        await response.write(data)

    return step


def until(gate: asyncio.Event) -> Step:
    """Send nothing until the test opens the gate: a stalled stream, when it never does."""

    async def step(_: web.Request, __: web.StreamResponse) -> None:
        await gate.wait()

    return step


async def reset(request: web.Request, _: web.StreamResponse) -> None:
    """Break the connection with a TCP RST."""
    if request.transport is not None:
        connection: socket.socket = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


@dataclass(frozen=True)
class Received:
    """One request as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class ScriptedServer:
    """Answers per (method, path) from a queue; the last answer repeats. A watch has the method WATCH.

    What is not scripted is 404 with a Status, and stalls for a watch.
    """

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.token: str | None = None
        """When set, any other bearer token is answered with 401."""
        self._answers: dict[tuple[str, str], deque[Answer]] = defaultdict(deque)
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._closing = asyncio.Event()

    def on(self, method: str, path: str, *answers: Answer) -> None:
        """Append answers to a route."""
        self._answers[method, path].extend(answers)

    def forget(self, method: str, path: str) -> None:
        """Drop a route's answers."""
        self._answers.pop((method, path), None)

    def count(self, method: str, path: str | None = None) -> int:
        """How many such requests came."""
        return sum(r.method == method and path in (None, r.path) for r in self.received)

    def last(self, method: str) -> Received:
        """Return the latest request of that method."""
        return [r for r in self.received if r.method == method][-1]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def config(self, folder: Path, **user: Any) -> ClusterConfig:
        """Write a kubeconfig for this server into `folder`; `user` holds fields of its user entry."""
        path = folder / "kubeconfig"
        context = {"name": "test", "context": {"cluster": "test", "user": "test"}}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "contexts": [context],
            "users": [{"name": "test", "user": user}],
        }
        path.write_text(json.dumps(document))
        return ClusterConfig(kubeconfig=str(path))

    async def down(self) -> None:
        """Stop listening and break every connection; `up` brings the server back on the same port."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def up(self) -> None:
        """Listen."""
        self._closing = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        method = "WATCH" if "watch" in request.query else request.method
        body = await request.read()
        self.received.append(Received(method, request.path, dict(request.query), dict(request.headers), body))
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return await status(401, "Unauthorized")(request)
        answers = self._answers[method, request.path]
        if not answers:
            return await (watch(until(self._closing)) if method == "WATCH" else status(404, "NotFound"))(request)
        answer = answers[0] if len(answers) == 1 else answers.popleft()
        return await answer(request)
