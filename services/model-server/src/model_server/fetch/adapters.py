"""A first look at the Workspace's adapters, before the engine starts: what cannot be served is known minutes earlier.

Images without a Secret were looked at by the controller already; here the others are, with the pod's right on their Secrets.
Nothing is pulled, and nothing that is found keeps the base model from being served.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from kaito_api.base_shapes import Base
from kaito_api.meta import Key
from kaito_api.report import AdapterReport
from kaito_api.resources import WORKSPACES
from kaito_api.workspace_status import AdapterState
from model_server.adapters.acquire import AcquireError, Acquirer
from model_server.adapters.mounted import Mounted
from model_server.adapters.preflight import read_base
from model_server.adapters.store import AdapterStore
from model_server.adapters.wanted import Wanted, wanted
from model_server.metrics import Metrics
from model_server.options import FetchOptions
from model_server.registries import registry_settings

if TYPE_CHECKING:
    from kubecore.client import Client

READ_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 30.0
"""For one adapter. The engine does not wait longer for a slow registry; the server asks it again."""
_logger = logging.getLogger(__name__)


async def look(options: FetchOptions, client: Client) -> list[AdapterReport]:
    """Return a report for each adapter from an image: Failed with its reason, or Pending where nothing is wrong so far."""
    from kubecore.errors import KubeError

    assert options.workspace is not None
    try:
        workspace = await client.get(WORKSPACES, options.workspace, timeout=READ_SECONDS)
    except KubeError as error:
        _logger.warning("adapters not looked at", extra={"error": str(error)})
        return []
    found = [item for item in wanted(workspace, Mounted(), "", "").values() if item.image]
    acquirer = _acquirer(options, options.workspace, client, await asyncio.to_thread(read_base, options.to, "the base"))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look(acquirer, item)) for item in found]
    return [task.result() for task in tasks]


async def _look(acquirer: Acquirer, item: Wanted) -> AdapterReport:
    state, reason, message = AdapterState.PENDING, "", ""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            await acquirer.look(item)
    except AcquireError as error:
        # What may pass by itself is no failure yet: the server tries it again.
        state = AdapterState.PENDING if error.retryable else AdapterState.FAILED
        reason, message = error.reason, str(error)
    except TimeoutError:
        message = f"the registry did not answer within {LOOK_SECONDS:g} s"
    except Exception as error:
        # A bug of ours must not keep the base model from being served.
        _logger.exception("the look at an adapter failed unexpectedly", extra={"adapter": item.name})
        message = f"the first look failed: {type(error).__name__}"
    if message:
        _logger.warning("adapter looked at", extra={"adapter": item.name, "reason": reason, "error": message})
    return AdapterReport(
        name=item.name, image=item.image, strength=item.strength, state=str(state), reason=reason, message=message
    )


def _acquirer(options: FetchOptions, workspace: Key, client: Client, base: Base | None) -> Acquirer:
    return Acquirer(
        adapter_store=AdapterStore(Path(options.to)),  # only asked what is known: nothing
        client=client,
        namespace=workspace.namespace,
        registries=registry_settings(options),
        base=base,
        max_rank=options.max_rank,
        metrics=Metrics(CollectorRegistry()),
    )
