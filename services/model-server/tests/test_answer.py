"""An answer that the server cannot wait for ends with words, whatever the application does when it is ended."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kubecore.testing.asserts import eventually
from model_server.admission import AdmissionMiddleware
from model_server.answer import SHUT_DOWN, broken_off, ending
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics

JSON = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
STREAM = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
REFUSAL = {"type": "http.response.start", "status": 400, "headers": []}


def piece(text: str, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


@pytest.mark.parametrize(
    ("path", "begun", "streams", "status", "first", "last"),
    [
        ("/v1/chat/completions", False, False, 503, '{"error": {', "}}"),
        ("/v1/chat/completions", True, True, 0, 'data: {"error": {', "}}\n\ndata: [DONE]\n\n"),
        ("/chat", True, True, 0, 'data: {"error": {', "}}\n\ndata: [DONE]\n\n"),
        ("/v1/messages", True, True, 0, 'event: error\ndata: {"type": "error", "error": {', "}}\n\n"),
        ("/v1/responses", True, True, 0, 'event: error\ndata: {"type": "error", "error": {', "}}\n\n"),
    ],
)
def test_the_end_speaks_the_language_of_its_route(
    path: str, begun: bool, streams: bool, status: int, first: str, last: str
) -> None:
    end = ending(SHUT_DOWN, path, begun=begun, streams=streams)
    assert end is not None
    text = end.body.decode()
    assert (end.status, text.startswith(first), text.endswith(last)) == (status, True, True)
    assert "shut down before the answer was complete" in text


def test_half_a_document_cannot_be_ended() -> None:
    assert ending(SHUT_DOWN, "/v1/completions", begun=True, streams=False) is None


class Client:
    """A request to an application that sends some messages, waits to be ended, and then sends others."""

    def __init__(
        self, lifecycle: Lifecycle, registry: CollectorRegistry, before: list[Any], after: list[Any] | None
    ) -> None:
        self.sent: list[Any] = []
        self._before, self._after = before, after
        self.waits = asyncio.Event()
        self._middleware = AdmissionMiddleware(
            self._application,
            lifecycle=lifecycle,
            metrics=Metrics(registry),
            sequences=lambda: 0,
            batch=8,
            rate_limit=True,
        )

    async def _application(self, _scope: Any, _receive: Any, send: Any) -> None:
        for message in self._before:
            await send(message)
        self.waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._after is None:
                raise
        for message in self._after:  # as vLLM does: it takes the end for a client who went away
            await send(message)

    async def ask(self) -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self._middleware({"type": "http", "method": "POST", "path": "/chat", "state": {}}, receive, send)


@pytest.mark.parametrize("after", [None, [REFUSAL, piece('{"error": "Client disconnected"}', more=False)]])
@pytest.mark.parametrize(
    ("before", "status", "outcome", "text"),
    [
        ([], 503, "5xx", '{"error": {'),
        ([STREAM, piece("data: 1\n\n")], 200, "aborted", "data: 1\n\n" + 'data: {"error": {'),
        ([STREAM], 200, "aborted", 'data: {"error": {'),
    ],
)
async def test_a_cut_is_told(before: list[Any], after: list[Any] | None, status: int, outcome: str, text: str) -> None:
    lifecycle, registry = Lifecycle(), CollectorRegistry()
    client = Client(lifecycle, registry, before, after)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(client.ask())
        await client.waits.wait()
        lifecycle.drain()
        lifecycle.cut()
        lifecycle.cut()
        await asyncio.wait_for(lifecycle.idle(), 30)
    assert not asking.cancelled(), "for uvicorn that would be an exception in the application"
    assert [message["type"] for message in client.sent].count("http.response.start") == 1
    assert client.sent[0]["status"] == status
    body = b"".join(message.get("body", b"") for message in client.sent).decode()
    assert body.startswith(text)
    assert "Client disconnected" not in body
    assert not client.sent[-1].get("more_body", False)
    labels = {"adapter": "(base)", "outcome": outcome}
    assert registry.get_sample_value("kaito_adapter_requests_total", labels) == 1
    if status == 503:
        assert json.loads(body)["error"]["code"] == "draining"
        assert dict(client.sent[0]["headers"])[b"retry-after"] == b"5"


async def test_half_a_document_stays_half() -> None:
    """The client sees that the connection ended; an end in words would make it a broken document that looks whole."""
    lifecycle, registry = Lifecycle(), CollectorRegistry()
    client = Client(lifecycle, registry, [JSON, piece('{"a": ')], None)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(client.ask())
        await client.waits.wait()
        lifecycle.cut()
    assert asking.cancelled()
    assert client.sent == [JSON, piece('{"a": ')]
    assert lifecycle.in_flight == 0


async def test_a_server_error_is_counted_as_one_although_it_is_raised_again() -> None:
    """Starlette answers an error that nobody expected with 500, and raises it for the server's log."""
    registry = CollectorRegistry()

    async def broken(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send(piece("Internal Server Error", more=False))
        raise RuntimeError("engine")

    async def send(_message: Any) -> None:
        return

    layer = AdmissionMiddleware(
        broken, lifecycle=Lifecycle(), metrics=Metrics(registry), sequences=lambda: 0, batch=1, rate_limit=True
    )
    with pytest.raises(RuntimeError):
        await layer({"type": "http", "method": "POST", "path": "/chat"}, None, send)  # type: ignore[arg-type]
    labels = {"adapter": "(base)", "outcome": "5xx"}
    assert registry.get_sample_value("kaito_adapter_requests_total", labels) == 1


class FieldError(Exception):
    """As vLLM's own, about one field of a request."""

    parameter = "text.format"


@pytest.mark.parametrize(
    ("raised", "cause", "code", "words"),
    [
        (RuntimeError("response already started"), FieldError("no grammar"), 400, "no grammar"),
        (FieldError("no grammar"), None, 400, "no grammar"),
        (
            RuntimeError("secret"),
            ValueError("secret"),
            500,
            "The server could not complete this answer; its log says why.",
        ),
    ],
)
async def test_a_stream_that_breaks_off_inside_the_application_ends_with_words(
    raised: Exception, cause: Exception | None, code: int, words: str
) -> None:
    registry, sent = CollectorRegistry(), []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(STREAM)
        await send(piece("event: response.created\n\n"))
        raise raised from cause

    async def send(message: Any) -> None:
        sent.append(message)

    layer = AdmissionMiddleware(
        application, lifecycle=Lifecycle(), metrics=Metrics(registry), sequences=lambda: 0, batch=1, rate_limit=True
    )
    with pytest.raises(type(raised)):
        await layer({"type": "http", "method": "POST", "path": "/v1/responses"}, None, send)  # type: ignore[arg-type]
    assert not sent[-1].get("more_body", False), "the client's connection is not torn"
    event, data = sent[-1]["body"].decode().strip().split("\n")
    said = json.loads(data.removeprefix("data: "))
    assert (event, said["type"]) == ("event: error", "error")
    assert (said["error"]["code"], said["error"]["message"]) == (code, words)
    assert said["error"]["param"] == ("text.format" if code == 400 else None)
    assert broken_off(raised) == said["error"]
    labels = {"adapter": "(base)", "outcome": "aborted"}
    assert registry.get_sample_value("kaito_adapter_requests_total", labels) == 1


async def test_a_piece_that_the_client_did_not_take_gives_way_to_the_end() -> None:
    lifecycle = Lifecycle()
    reading = asyncio.Event()
    sent: list[Any] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(STREAM)
        await send(piece("data: 1\n\n"))

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await reading.wait()
        sent.append(message)

    layer = AdmissionMiddleware(
        application,
        lifecycle=lifecycle,
        metrics=Metrics(CollectorRegistry()),
        sequences=lambda: 0,
        batch=1,
        rate_limit=True,
    )
    scope = {"type": "http", "method": "POST", "path": "/chat", "state": {}}
    async with asyncio.TaskGroup() as group:
        group.create_task(layer(scope, receive, send))
        await eventually(lambda: len(sent) == 1)
        lifecycle.cut()
        await asyncio.sleep(0)
        reading.set()
    assert b"data: 1" not in sent[1]["body"]
    assert b"[DONE]" in sent[1]["body"]
