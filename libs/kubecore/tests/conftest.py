"""Fixtures on the scripted server, and a guard: code of kubecore that blocks the event loop fails the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from kubecore.client import Client
from kubecore.testing.server import ScriptedServer
from kubecore.transport import Transport


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[BlockBuster]:
    with blockbuster_ctx("kubecore", excluded_modules=["kubecore.testing"]) as guard:
        for function in guard.functions.values():
            # the first runs once, before anything else; the second has a loop and a thread of its own
            function.can_block_in("kubecore/config.py", {"load_config", "_load"})
        yield guard


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[Client]:
    async with Transport(server.config(tmp_path, token="first"), user_agent="kubecore-test") as transport:
        yield Client(transport)
