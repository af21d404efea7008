"""The layer that asks for an API key: which requests pass, and what the others are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from prometheus_client import CollectorRegistry

from kubecore.testing.clock import FakeClock
from model_server.api_keys import ApiKeys
from model_server.authentication import AuthenticationMiddleware
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics
from model_server.routes import chat, health

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KEY = "sk-first"
BEARER = {"authorization": f"Bearer {KEY}"}
PREFLIGHT = {"origin": "https://a.example", "access-control-request-method": "POST"}


class Door:
    """The layer before an application of ours that answers everything, and what comes out."""

    def __init__(self, folder: Path) -> None:
        self.registry = CollectorRegistry()
        self.lifecycle = Lifecycle()
        app = FastAPI()
        app.include_router(health.router(self.lifecycle))
        app.include_router(chat.router(has_template=True))

        @app.get("/health")
        @app.get("/metrics")
        @app.get("/v1/models")
        @app.post("/v1/of_a_later_release")
        async def answer() -> str:
            return "answered"

        @app.websocket("/v1/realtime")
        async def realtime(socket: WebSocket) -> None:
            await socket.accept()
            await socket.close()

        keys = ApiKeys(folder, FakeClock(NOW))
        self._app = AuthenticationMiddleware(app, keys=keys, metrics=Metrics(self.registry))

    async def ask(
        self, method: str, path: str, headers: dict[str, str], kind: str = "http", extensions: Any = None
    ) -> list[dict[str, Any]]:
        """Return what the application sends."""
        scope: dict[str, Any] = {
            "type": kind,
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "subprotocols": [],
            "extensions": extensions or {},
        }
        if kind == "websocket":
            del scope["method"]
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return sent

    async def status(self, method: str, path: str, headers: dict[str, str]) -> int:
        """Return the status that the application answers with."""
        return int((await self.ask(method, path, headers))[0]["status"])

    @property
    def refused(self) -> float | None:
        return self.registry.get_sample_value("kaito_auth_refused_total")


@pytest.fixture
def door(tmp_path: Path) -> Door:
    (tmp_path / "first").write_text(KEY + "\n")
    (tmp_path / "second").write_text("sk-second")
    return Door(tmp_path)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/readyz", 503),
        ("GET", "/metrics", 200),
        ("POST", "/metrics", 401),
        ("GET", "/metrics/", 401),
        ("GET", "//health", 401),
        ("GET", "/health/../v1/models", 401),
        ("GET", "/health?/v1/models", 401),
        ("GET", "/v1/models", 401),
        ("GET", "/docs", 401),
        ("GET", "/openapi.json", 401),
        ("POST", "/chat", 401),
        ("POST", "/v1/of_a_later_release", 401),
        ("OPTIONS", "/v1/of_a_later_release", 401),
        ("GET", "/no/such/route", 401),
    ],
)
async def test_only_the_open_routes_answer_without_a_key(door: Door, method: str, path: str, status: int) -> None:
    assert await door.status(method, path, {}) == status
    assert door.refused == (status == 401)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer sk-first"}, 200),
        ({"authorization": "Bearer sk-second"}, 200),
        ({"authorization": "bearer  sk-second "}, 200),
        ({"x-api-key": "sk-second"}, 200),
        ({"x-api-key": "sk-second", "authorization": "Bearer none"}, 200),
        ({"authorization": "sk-first"}, 401),
        ({"authorization": "Basic sk-first"}, 401),
        ({"authorization": "Bearer sk-firs"}, 401),
        ({"authorization": "Bearer sk-first,sk-second"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"x-api-key": ""}, 401),
        ({"api-key": "sk-first"}, 401),
        ({"cookie": "sk-first"}, 401),
    ],
)
async def test_a_key_is_taken_as_the_usual_clients_send_it(door: Door, headers: dict[str, str], status: int) -> None:
    assert await door.status("POST", "/v1/of_a_later_release", headers) == status


@pytest.mark.parametrize(
    ("headers", "words"), [({}, "asks for an API key"), ({"authorization": "Bearer wrong"}, "is not valid")]
)
async def test_the_refusal_is_an_error_as_openai_words_it(door: Door, headers: dict[str, str], words: str) -> None:
    start, body = await door.ask("POST", "/chat", headers)
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    error = json.loads(body["body"])["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert words in error["message"]
    assert "wrong" not in error["message"]


@pytest.mark.parametrize("values", [None, {}, {"key": ""}])
async def test_no_keys_means_closed(tmp_path: Path, values: dict[str, str] | None) -> None:
    folder = tmp_path / "keys"
    if values is not None:
        folder.mkdir()
        for name, value in values.items():
            (folder / name).write_text(value)
    closed = Door(folder)
    for headers in ({}, {"authorization": "Bearer "}, BEARER):
        start, body = await closed.ask("POST", "/chat", headers)
        assert start["status"] == 401
        assert "every request is refused" in json.loads(body["body"])["error"]["message"]
    assert await closed.status("GET", "/health", {}) == 200


async def test_a_preflight_needs_no_key_and_reaches_no_route(door: Door) -> None:
    """Without vLLM's CORS layer, which answers it, the application here has no OPTIONS: 405."""
    assert await door.status("OPTIONS", "/v1/of_a_later_release", PREFLIGHT) == 405
    assert await door.status("POST", "/v1/of_a_later_release", PREFLIGHT) == 401


async def test_websockets_are_covered(door: Door) -> None:
    bare = await door.ask("", "/v1/realtime", {}, "websocket")
    assert bare == [{"type": "websocket.close", "code": 1008}]
    start, body = await door.ask("", "/v1/realtime", {}, "websocket", {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert body["type"] == "websocket.http.response.body"
    assert await door.ask("", "/health", {}, "websocket") == bare
    assert (await door.ask("", "/v1/realtime", BEARER, "websocket"))[0]["type"] == "websocket.accept"
    assert door.refused == 3


async def test_a_server_without_keys_is_not_ready(door: Door) -> None:
    door.lifecycle.serve()
    door.lifecycle.adapters_settled = True
    assert await door.status("GET", "/readyz", {}) == 200
    door.lifecycle.keys_missing = True
    start, body = await door.ask("GET", "/readyz", {})
    assert (start["status"], json.loads(body["body"])) == (503, {"state": "Ready", "waitingFor": "apiKeys"})
