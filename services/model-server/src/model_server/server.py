"""The HTTP server: uvicorn with vLLM's settings, whose start and end this service decides."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import uvicorn

from model_server import vllm_compat
from model_server.exits import ExitCode, FatalError
from model_server.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from fastapi import FastAPI

    from model_server.admission import Application

CUT_SECONDS: Final = 2
"""How long connections that are still open after the drain may take before they are cut."""


class HttpServer(uvicorn.Server):
    """uvicorn without signal handlers of its own: the drain owns SIGTERM."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        self.listening.set()

    def stop(self) -> None:
        """Close idle connections and let the rest end within CUT_SECONDS."""
        self.should_exit = True


def build(app: FastAPI, guarded: Application, namespace: argparse.Namespace) -> HttpServer:
    """Return the server for `guarded`, which wraps `app`, configured as vLLM would configure it."""
    config = uvicorn.Config(
        guarded,
        http=HttpProtocol,
        host=namespace.host,
        port=namespace.port,
        log_level=namespace.uvicorn_log_level,
        log_config=vllm_compat.uvicorn_log_config(namespace),
        access_log=not namespace.disable_uvicorn_access_log,
        timeout_keep_alive=vllm_compat.keep_alive_seconds(),
        timeout_graceful_shutdown=CUT_SECONDS,
    )
    for name, value in vllm_compat.http_limits(namespace).items():
        setattr(config, name, value)
    config.load()
    server = HttpServer(config)
    app.state.server = server  # vLLM's error handlers look for it when the engine is dead
    return server


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet. Raises FatalError if the port is taken.

    Bound before the engine starts: a taken port is known at once, and not after minutes of loading weights.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family=family, type=socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        why = "is taken by another process" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise FatalError(ExitCode.ENGINE_FAILED, f"port {port} {why}; stop what listens there or set --port") from error
    return bound
