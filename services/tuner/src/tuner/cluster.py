"""This container's way to the apiserver: its own Pod, to annotate it."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from kaito_api.labels import REPORT_PREFIX
from kaito_api.meta import Key
from kaito_api.resources import PODS
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import ApiError, ConfigError, TransportError
from kubecore.transport import Transport
from tuner.reporter import Annotate, ReportUnwrittenError

CONTAINER: Final = "tuner"
WRITE_SECONDS: Final = 10.0
_logger = logging.getLogger(__name__)


def own_pod(environment: Mapping[str, str] = os.environ) -> Key | None:
    """Return the Pod named by the downward API, None outside one."""
    name, namespace = environment.get("POD_NAME", ""), environment.get("POD_NAMESPACE", "")
    return Key(namespace, name) if name and namespace else None


@asynccontextmanager
async def annotator(workspace: Key | None) -> AsyncIterator[Annotate | None]:
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
        client = Client(transport)

        async def annotate(value: str) -> None:
            patch = {"metadata": {"annotations": {REPORT_PREFIX + CONTAINER: value}}}
            try:
                await client.patch(PODS, pod, patch, timeout=WRITE_SECONDS)
            except (ApiError, TransportError) as error:
                raise ReportUnwrittenError(str(error)) from error

        yield annotate
