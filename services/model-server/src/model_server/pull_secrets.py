"""Registry credentials, read over the API for each pull and kept in memory: never in the environment or in files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kaito_api.core.access import DOCKER_CONFIG_TYPE
from kaito_api.meta import Key
from kaito_api.resources import SECRETS
from kaito_oci import Anonymous, CredentialSource, DockerConfigError, DockerConfigs

if TYPE_CHECKING:
    from kubecore.client import Client

READ_SECONDS: Final = 10.0


class SecretError(Exception):
    """The Secret cannot be used. `waiting` says that the right to read it may still come (it was named just now)."""

    def __init__(self, message: str, *, waiting: bool) -> None:
        super().__init__(message)
        self.waiting = waiting


async def read(client: Client | None, namespace: str, names: Sequence[str]) -> CredentialSource:
    """Return the credentials in the named Secrets of `namespace`. Raises SecretError."""
    if not names:
        return Anonymous()
    if client is None:
        raise SecretError("pull Secrets are named, but no cluster is connected to read them from", waiting=False)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_document(client, Key(namespace, name))) for name in names]
    documents: list[bytes] = []
    for task in tasks:
        document = task.result()
        if isinstance(document, SecretError):
            raise document
        documents.append(document)
    try:
        return DockerConfigs(*documents)
    except DockerConfigError as error:
        raise SecretError(f"one of the Secrets {', '.join(names)} is {error}", waiting=False) from error


async def _document(client: Client, key: Key) -> bytes | SecretError:
    """Return the docker config; an error is returned, so that the task group does not wrap it."""
    from kubecore.errors import ApiError, Forbidden, NotFound, TransportError

    try:
        secret = await client.get(SECRETS, key, timeout=READ_SECONDS)
    except NotFound:
        return SecretError(
            f"there is no Secret {key}: create it with kubectl create secret docker-registry", waiting=True
        )
    except Forbidden:
        return SecretError(f"this pod may not read the Secret {key} yet", waiting=True)
    except (ApiError, TransportError) as error:
        return SecretError(f"the Secret {key} cannot be read: {error}", waiting=True)
    if secret.docker_config is None:
        return SecretError(f"the Secret {key} is of type {secret.type}, not {DOCKER_CONFIG_TYPE}", waiting=False)
    return secret.docker_config
