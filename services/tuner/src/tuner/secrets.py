"""The login for the registry of checkpoints: read when it is needed, kept in memory, never given to the training child."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from kaito_api.core.access import DOCKER_CONFIG_KEY, DOCKER_CONFIG_TYPE
from kaito_api.meta import Key
from kaito_api.resources import SECRETS
from kaito_oci import Anonymous, CredentialSource, DockerConfigError, DockerConfigs
from kubecore.client import Client
from kubecore.errors import ApiError, TransportError

READ_SECONDS: Final = 10.0


class SecretError(Exception):
    """The Secret cannot be used. `str()` says why."""


async def mounted(folder: Path) -> CredentialSource:
    """Read a Secret that kubelet mounted. Raises SecretError."""
    try:
        return _parsed(await asyncio.to_thread((folder / DOCKER_CONFIG_KEY).read_bytes), str(folder))
    except OSError as error:
        raise SecretError(f"{folder / DOCKER_CONFIG_KEY} cannot be read: {error.strerror}") from error


async def over_api(client: Client, secret: Key) -> CredentialSource:
    """Read a Secret of the pod's namespace. Raises SecretError."""
    try:
        found = await client.get(SECRETS, secret, timeout=READ_SECONDS)
    except (ApiError, TransportError) as error:
        raise SecretError(f"Secret {secret} cannot be read: {error}") from error
    if found.docker_config is None:
        raise SecretError(f"Secret {secret} has type {found.type}; it must be {DOCKER_CONFIG_TYPE}")
    return _parsed(found.docker_config, f"Secret {secret}")


async def anonymous() -> CredentialSource:
    """No login."""
    return Anonymous()


def _parsed(document: bytes, where: str) -> CredentialSource:
    try:
        return DockerConfigs(document)
    except DockerConfigError as error:
        raise SecretError(f"{where}: {error}") from error
