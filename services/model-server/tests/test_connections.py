"""The layers of this service on a real socket, with real clients: what a shutdown and an old habit of clients do to a request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from kubecore.testing.asserts import eventually
from model_server import server
from model_server.admission import AdmissionMiddleware
from model_server.http_protocol import HttpProtocol, without_offer
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics

CHUNK = {
    "id": "c",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "word"}, "finish_reason": None}],
}


async def endless(_scope: Any, receive: Any, send: Any) -> None:
    """Answer with a stream that never ends, or never, as the body asks; or with the body itself."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    question = json.loads(body)
    if question.get("messages"):
        if question.get("stream"):
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            event = f"data: {json.dumps(CHUNK)}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(lifecycle: Lifecycle) -> AsyncIterator[tuple[server.HttpServer, int]]:
    layer = AdmissionMiddleware(
        endless,
        lifecycle=lifecycle,
        metrics=Metrics(CollectorRegistry()),
        sequences=lambda: 0,
        batch=8,
        rate_limit=True,
    )
    bound = server.bind("127.0.0.1", 0)
    config = uvicorn.Config(layer, http=HttpProtocol, lifespan="off", log_config=None)
    http = server.HttpServer(config)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(http.serve(sockets=[bound]))
        await http.listening.wait()
        try:
            yield http, bound.getsockname()[1]
        finally:
            http.force_exit = True
            http.stop()
            await running


async def test_clients_of_openai_hear_of_a_shutdown_that_cuts_their_answers() -> None:
    lifecycle = Lifecycle()
    ask: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    async def stream(client: openai.AsyncOpenAI) -> tuple[str, str]:
        text = ""
        try:
            async for chunk in await client.chat.completions.create(**ask, stream=True):
                text += chunk.choices[0].delta.content
        except openai.APIError as error:
            return text, f"{type(error).__name__}: {error.message}"
        return text, ""

    async def whole(client: openai.AsyncOpenAI) -> tuple[int, str | None, str]:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**ask)
        return caught.value.status_code, caught.value.response.headers.get("retry-after"), str(caught.value.code)

    async with asyncio.timeout(60), serving(lifecycle) as (http, port):
        url = f"http://127.0.0.1:{port}/v1"
        async with (
            openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
            asyncio.TaskGroup() as group,
        ):
            streamed, asked = group.create_task(stream(client)), group.create_task(whole(client))
            await eventually(lambda: lifecycle.in_flight == 2, timeout=30)
            lifecycle.drain()
            lifecycle.cut()
            http.stop()  # waits for every connection here: it cuts none
    assert streamed.result() == (
        "word",
        "APIError: This server shut down before the answer was complete; ask again.",
    )
    assert asked.result() == (503, "5", "draining")


HEAD = b"POST /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
OFFER = b"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (HEAD + OFFER + b"\r\n{}", HEAD + OFFER.replace(b"Upgrade:", b"x-offer:") + b"\r\n{}"),
        (HEAD + b"upgrade:h2c\r\n\r\n", HEAD + b"x-offer:h2c\r\n\r\n"),
        (HEAD + b"Upgrade: websocket\r\n\r\n", None),
        (HEAD + b"Upgrade: h2cx\r\n\r\n", None),
        (HEAD + b"X-Upgrade: h2c\r\n\r\n", None),
        (HEAD + b"\r\nUpgrade: h2c\r\n\r\n", None),
        (HEAD + OFFER, None),
        (b"", None),
    ],
)
def test_only_the_offer_in_a_head_is_hidden(piece: bytes, expected: bytes | None) -> None:
    assert without_offer(piece) == (piece if expected is None else expected)


async def test_the_body_of_a_client_that_offers_http2_arrives() -> None:
    body = b'{"prompt": "What is a node?"}'
    request = HEAD + OFFER + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def twice(port: int) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            answers = []
            for _ in range(2):
                connection.sendall(request)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += connection.recv(65536) or b"}"
                answers.append(answer)
        return answers

    async with serving(Lifecycle()) as (_, port):
        answers = await asyncio.to_thread(twice, port)
    assert [(answer.split(b" ", 2)[1], answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [(b"200", body)] * 2


async def test_a_long_request_that_comes_while_the_server_drains_reads_its_refusal() -> None:
    """A connection that is closed with bytes unread is reset, and with it goes the answer that the client has not read yet."""
    lifecycle = Lifecycle()

    async def ask(client: openai.AsyncOpenAI) -> tuple[int, str | None]:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="m", prompt="x" * (8 << 20))
        return caught.value.status_code, caught.value.response.headers.get("retry-after")

    async with asyncio.timeout(60), serving(lifecycle) as (_, port):
        lifecycle.drain()
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
            assert [await ask(client) for _ in range(5)] == [(503, "1")] * 5
