"""The packager inside a Pod: its own Pod to report to, the push Secret to read. No right beyond these two is used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapter_packager.exits import SecretProblem
from kaito_api.core.access import DOCKER_CONFIG_TYPE
from kaito_api.meta import Key
from kaito_api.resources import SECRETS
from kaito_oci import DockerConfigError, DockerConfigs
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import ApiError, Forbidden, NotFound, TransportError
from kubecore.pod_report import annotator
from kubecore.transport import Transport

_SECONDS = 10.0


class Cluster:
    """A connection to the apiserver on behalf of one container of one Pod."""

    def __init__(self, client: Client, pod: Key, container: str) -> None:
        self._client = client
        self._pod = pod
        self.annotate = annotator(client, pod, container)

    async def push_secret(self, name: str) -> DockerConfigs:
        """The Secret's credentials, read now: kept in memory only, and read again for each attempt. Raises SecretProblem."""
        where = f"Secret {self._pod.namespace}/{name}"
        try:
            secret = await self._client.get(SECRETS, Key(self._pod.namespace, name), timeout=_SECONDS)
        except NotFound as error:
            message = f"{where} does not exist: create it with `kubectl create secret docker-registry {name} ...`"
            raise SecretProblem("SecretMissing", message, retryable=True) from error
        except Forbidden as error:
            message = f"this pod may not read {where} yet: the controller grants it when the Workspace names it"
            raise SecretProblem("WaitingForAccess", message, retryable=True) from error
        except (ApiError, TransportError) as error:
            message = f"{where} cannot be read: the apiserver does not answer ({type(error).__name__})"
            raise SecretProblem("ApiserverUnavailable", message, retryable=True) from error
        if secret.docker_config is None:
            kind = f"{DOCKER_CONFIG_TYPE} (kubectl create secret docker-registry)"
            message = f"{where} has type {secret.type}; it must be {kind}"
            raise SecretProblem("SecretInvalid", message, retryable=True)
        try:
            return DockerConfigs(secret.docker_config)
        except DockerConfigError as error:
            raise SecretProblem("SecretInvalid", f"{where}: {error}", retryable=True) from error


@asynccontextmanager
async def connect(pod: Key, container: str) -> AsyncIterator[Cluster]:
    """Connect with the pod's own service account, or with $KUBECONFIG where that is set."""
    config = load_config(os.environ.get("KUBECONFIG"))
    async with Transport(config, user_agent="kaito-adapter-packager") as transport:
        yield Cluster(Client(transport), pod, container)
