"""The layer that asks for an API key: the outermost one where keys are demanded, absent where they are not.

Closed by default: all but the routes of OPEN_ROUTES needs a key, so that a route which a new release of vLLM brings is covered
before anybody has heard of it. HTTP and WebSocket alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from model_server.admission import Application, Message, Receive, Send
from model_server.api_keys import ApiKeys
from model_server.metrics import Metrics

OPEN_ROUTES: Final = frozenset({"/health", "/readyz", "/metrics"})
"""What kubelet and Prometheus ask, without a key. They spend no GPU time and show no prompts. Only to be read (GET, HEAD)."""
_READING: Final = frozenset({"GET", "HEAD"})
_PREFLIGHT_HEADERS: Final = frozenset({b"origin", b"access-control-request-method"})
_HTTP_REFUSAL: Final = "websocket.http.response"
"""ASGI extension: a WebSocket that is not accepted is answered with more than a bare 403."""
_POLICY_VIOLATION: Final = 1008
_NO_KEY: Final = "This model asks for an API key. Send it in the header `Authorization: Bearer KEY`."
_WRONG_KEY: Final = "This API key is not valid for this model."
_NO_KEYS: Final = "No API key is set up for this model, so every request is refused. Its operator has to add one."


class AuthenticationMiddleware:
    """ASGI middleware that lets through what carries one of `keys`, and what needs none."""

    def __init__(self, app: Application, *, keys: ApiKeys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        self._keys.refresh()
        given = tuple(presented(scope))
        if is_open(scope) or any(self._keys.accepts(key) for key in given):
            await self._app(scope, receive, send)
            return
        self._metrics.refused_unauthorized.inc()
        await _refuse(scope, send, _NO_KEYS if not self._keys.present else _WRONG_KEY if given else _NO_KEY)


def is_open(scope: Message) -> bool:
    """Return whether a request needs no key.

    Besides the open routes that is a browser's question before the real request (CORS preflight), which carries no key and which
    vLLM answers before any route.
    """
    if scope["type"] != "http":
        return False
    if scope["method"] == "OPTIONS":
        return {name for name, _ in scope["headers"]} >= _PREFLIGHT_HEADERS
    return scope["method"] in _READING and scope["path"] in OPEN_ROUTES


def presented(scope: Message) -> Iterator[bytes]:
    """Yield the keys that a request carries: as OpenAI's clients send them (RFC 6750), and as Anthropic's do (`x-api-key`)."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer" and key.strip():
                yield key.strip()
        elif name == b"x-api-key" and value.strip():
            yield value.strip()


async def _refuse(scope: Message, send: Send, text: str) -> None:
    """Answer 401 with an error as OpenAI's API words it."""
    prefix = "http.response"
    if scope["type"] == "websocket":
        if _HTTP_REFUSAL not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        prefix = _HTTP_REFUSAL
    error = {"message": text, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": f"{prefix}.start", "status": 401, "headers": headers})
    await send({"type": f"{prefix}.body", "body": body})
