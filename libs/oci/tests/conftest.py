from collections.abc import AsyncIterator

import pytest

from kaito_oci import Patience, RegistrySettings
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import ScriptedServer, scripted_server

RETRIES = Patience(attempts=3, backoff=0.01, backoff_cap=0.05)
"""Usual deadlines, so that a busy machine does not matter, and short pauses."""


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
