from collections.abc import AsyncIterator

import pytest

from kaito_oci import Patience, RegistrySettings
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import ScriptedServer, scripted_server

RETRIES = Patience(attempts=3, backoff=0.01, backoff_cap=0.05)
"""Usual deadlines, so that a busy machine does not matter, and short pauses."""
HURRIED = Patience(connect=5, head=1, stall=0.5, commit=2, min_rate=1000, attempts=2, backoff=0.01, backoff_cap=0.05)
"""For servers that are too slow on purpose."""


@pytest.fixture
def script() -> ScriptedRegistry:
    return ScriptedRegistry()


@pytest.fixture
async def server(script: ScriptedRegistry) -> AsyncIterator[ScriptedServer]:
    async with scripted_server(script) as running:
        yield running


@pytest.fixture
def impatient(server: ScriptedServer) -> RegistrySettings:
    return RegistrySettings(plain_http_hosts={server.host}, patience=RETRIES)


@pytest.fixture
def hurried(server: ScriptedServer) -> RegistrySettings:
    return RegistrySettings(plain_http_hosts={server.host}, patience=HURRIED)
