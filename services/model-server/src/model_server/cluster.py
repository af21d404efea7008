"""This container's way to the apiserver: its own Pod to annotate, its Workspace's namespace to read."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from kaito_api.meta import Key
from kubecore.pod_report import Annotate, annotator, own_pod

if TYPE_CHECKING:
    from kubecore.client import Client

USER_AGENT: Final = "kaito-model-server"
_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_logger = logging.getLogger(__name__)


class Cluster:
    """A connection to the apiserver, and the Pod that this process runs in."""

    def __init__(self, client: Client, pod: Key) -> None:
        self.client = client
        self.pod = pod

    def annotator(self, container: str) -> Annotate:
        """Return what puts the report of one of its containers on the Pod."""
        return annotator(self.client, self.pod, container)


def reachable(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a cluster was named: by the pod's own service account, or by $KUBECONFIG."""
    return bool(environment.get("KUBECONFIG")) or ("KUBERNETES_SERVICE_HOST" in environment and os.path.exists(_TOKEN))


@asynccontextmanager
async def connect(workspace: Key | None) -> AsyncIterator[Cluster | None]:
    """Connect if there is a Workspace to serve and a cluster to ask; yield None otherwise."""
    pod = own_pod()
    if workspace is None or pod is None or not reachable():
        _logger.info("nothing is reported or watched", extra={"workspace": str(workspace or ""), "pod": str(pod or "")})
        yield None
        return
    from kubecore.client import Client
    from kubecore.config import load_config
    from kubecore.transport import Transport

    config = load_config(os.environ.get("KUBECONFIG"))
    async with Transport(config, user_agent=USER_AGENT) as transport:
        yield Cluster(Client(transport), pod)
