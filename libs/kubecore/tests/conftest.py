"""Fixtures on the scripted server: a transport and a client that talk to it, and a small kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubecore.client import Client
from kubecore.testing.server import ScriptedServer
from kubecore.transport import Transport


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Client]:
    async with Transport(server.config(tmp_path, token="first"), user_agent="kubecore-test") as transport:
        yield Client(transport)
