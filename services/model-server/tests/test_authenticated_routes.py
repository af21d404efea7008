"""Every route that vLLM can bring, in its own application: none answers without a key but those that may."""

from __future__ import annotations

import importlib
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kubecore.testing.clock import FakeClock
from model_server import vllm_compat
from model_server.api_keys import ApiKeys
from model_server.authentication import OPEN_ROUTES, AuthenticationMiddleware
from model_server.metrics import Metrics

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ORIGIN = "https://a.example"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
BEARER = [(b"authorization", b"Bearer sk-key")]
EXPECTED = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/realtime",
    "/v1/audio/transcriptions",
    "/v1/models",
    "/v1/load_lora_adapter",
    "/v1/chat/completions/render",
    "/tokenize",
    "/detokenize",
    "/invocations",
    "/inference/v1/generate",
    "/collective_rpc",
    "/sleep",
    "/docs",
    "/version",
}
"""Some that must be among those tried, so that the test cannot pass by looking at nothing."""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, AuthenticationMiddleware]:
    """vLLM's application for a model that can do everything, its development routes switched on, and the layer around it."""
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    (tmp_path / "key").write_text("sk-key")
    namespace = vllm_compat.parse_arguments(["--model", "x", "--allowed-origins", f'["{ORIGIN}"]'])
    tasks = importlib.import_module("vllm.tasks")
    every = tuple(
        task
        for name in ("GenerationTask", "PoolingTask", "FrontendTask")
        for task in typing.get_args(getattr(tasks, name))
    )
    app = importlib.import_module("vllm.entrypoints.launchers.app").build_app(namespace, every, None)
    keys = ApiKeys(tmp_path, FakeClock(NOW))
    return app, AuthenticationMiddleware(app, keys=keys, metrics=Metrics(CollectorRegistry()))


async def first_answer(layer: AuthenticationMiddleware, kind: str, method: str, path: str, headers: Any) -> Any:
    """Return the first message that is sent; a route that was reached and fails without its engine counts as a 500."""
    scope = {"type": kind, "method": method, "path": path, "query_string": b"", "headers": headers}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http", "extensions": {}, "state": {}}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await layer(scope, receive, send)
    except (AttributeError, KeyError):
        return {"status": 500}
    return sent[0]


async def test_every_route_of_vllm_asks_for_a_key(application: tuple[Any, AuthenticationMiddleware]) -> None:
    app, layer = application
    tried, answered = set(), set()
    for route in app.routes:
        tried.add(route.path)
        methods = getattr(route, "methods", None) or {"GET"}
        kind = "websocket" if "WebSocket" in type(route).__name__ else "http"
        for method in methods:
            answer = await first_answer(layer, kind, method, route.path, [])
            if (answer.get("status"), answer.get("code")) not in {(401, None), (None, 1008)}:
                answered.add(route.path)
    assert answered == OPEN_ROUTES & tried
    assert tried >= EXPECTED | {"/health", "/metrics"}


async def test_a_key_opens_them_and_a_browser_may_ask_first(application: tuple[Any, AuthenticationMiddleware]) -> None:
    _, layer = application
    assert (await first_answer(layer, "http", "GET", "/version", BEARER))["status"] == 200
    preflight = [(b"origin", ORIGIN.encode()), (b"access-control-request-method", b"POST")]
    answer = await first_answer(layer, "http", "OPTIONS", "/collective_rpc", preflight)
    assert answer["status"] == 200
    assert (b"access-control-allow-origin", ORIGIN.encode()) in answer["headers"]
