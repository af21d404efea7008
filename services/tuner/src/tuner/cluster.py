"""This container's way to the apiserver: its own Pod, to annotate it, and the Secret named for its checkpoints."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from kaito_api.meta import Key
from kaito_oci import CredentialSource
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import ConfigError
from kubecore.pod_report import annotator, own_pod
from kubecore.transport import Transport
from tuner import secrets

CONTAINER: Final = "tuner"
_logger = logging.getLogger(__name__)


class Cluster:
    """The apiserver on behalf of this container's Pod: its annotation, and the Secret of its registry."""

    def __init__(self, client: Client, pod: Key) -> None:
        self._client = client
        self._pod = pod
        self.annotate = annotator(client, pod, CONTAINER)

    async def login(self, secret: str) -> CredentialSource:
        """Read a Secret of the Pod's namespace. Raises SecretError."""
        return await secrets.over_api(self._client, Key(self._pod.namespace, secret))


@asynccontextmanager
async def connected(workspace: Key | None) -> AsyncIterator[Cluster | None]:
    """Connect if there is a Workspace to report to and a Pod to annotate; yield None otherwise."""
    pod = own_pod()
    if workspace is None or pod is None:
        _logger.info("nothing is reported", extra={"workspace": str(workspace or ""), "pod": str(pod or "")})
        yield None
        return
    try:
        config = load_config(os.environ.get("KUBECONFIG"))
    except ConfigError as error:
        _logger.warning("nothing is reported", extra={"error": str(error)})
        yield None
        return
    async with Transport(config, user_agent="kaito-tuner") as transport:
        yield Cluster(Client(transport), pod)
