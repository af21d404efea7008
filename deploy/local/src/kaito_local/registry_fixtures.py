"""pytest fixtures on a real registry: each test gets one of its own, empty, and its process ends with the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kaito_oci.testing.docker_registry import DockerRegistry, docker_registry


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    """One that is open to everybody."""
    async with docker_registry(_folder(tmp_path, "registry")) as running:
        yield running


@pytest.fixture
async def locked_registry(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    """One that asks for a user name and a password."""
    async with docker_registry(_folder(tmp_path, "locked-registry"), password=True) as running:
        yield running


@pytest.fixture
async def tls_registry(tmp_path: Path) -> AsyncIterator[DockerRegistry]:
    """One that speaks TLS with a certificate of an authority that nobody knows."""
    async with docker_registry(_folder(tmp_path, "tls-registry"), tls=True) as running:
        yield running


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder
