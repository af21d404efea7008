"""The packager inside a Pod: its own Pod to report to, the push Secret to read. No right beyond these two is used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from adapter_packager.access import SECRET_KEY, SECRET_TYPE
from adapter_packager.exits import SecretProblem
from adapter_packager.pod_report import ReportLost
from kaito_api.labels import report_annotation
from kaito_api.meta import Key
from kaito_api.resources import PODS, SECRETS
from kaito_oci import DockerConfigError, DockerConfigs
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import ApiError, Forbidden, NotFound, TransportError
from kubecore.transport import Transport

_SECONDS = 10.0


class Cluster:
    """A connection to the apiserver on behalf of one container of one Pod."""

    def __init__(self, client: Client, pod: Key, container: str) -> None:
        self._client = client
        self._pod = pod
        self._annotation = report_annotation(container)

    async def write_report(self, report: bytes) -> None:
        """Put the report on the Pod. Raises ReportLost."""
        patch = {"metadata": {"annotations": {self._annotation: report.decode()}}}
        try:
            await self._client.patch(PODS, self._pod, patch, timeout=_SECONDS)
        except (ApiError, TransportError) as error:
            raise ReportLost(str(error)) from error

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
        if secret.type != SECRET_TYPE or SECRET_KEY not in secret.data:
            message = (
                f"{where} has type {secret.type}; it must be {SECRET_TYPE} (kubectl create secret docker-registry)"
            )
            raise SecretProblem("SecretInvalid", message, retryable=True)
        try:
            return DockerConfigs(secret.data[SECRET_KEY])
        except DockerConfigError as error:
            raise SecretProblem("SecretInvalid", f"{where}: {error}", retryable=True) from error


def own_pod(environment: Mapping[str, str] = os.environ) -> Key | None:
    """The Pod that the downward API names, or None outside of one."""
    name, namespace = environment.get("POD_NAME", ""), environment.get("POD_NAMESPACE", "")
    return Key(namespace, name) if name and namespace else None


@asynccontextmanager
async def connect(pod: Key, container: str) -> AsyncIterator[Cluster]:
    """Connect with the pod's own service account, or with $KUBECONFIG where that is set."""
    config = load_config(os.environ.get("KUBECONFIG"))
    async with Transport(config, user_agent="kaito-adapter-packager") as transport:
        yield Cluster(Client(transport), pod, container)
