"""Node objects without kubelets: for tests that need a Node to appear, not to run anything."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kaito_api.meta import Key
from kaito_api.resources import NODES
from kubecore.client import Client
from kubecore.errors import AlreadyExists, NotFound

from .nodes import MachineSpec


class NodeObjects:
    """Creates the Node NotReady at once and Ready after `ready_after` seconds, with `gpus` allocatable."""

    def __init__(
        self, client: Client, *, ready_after: float = 0.0, gpus: int = 1, sleep: Callable[[float], Any] = asyncio.sleep
    ) -> None:
        self._client = client
        self.ready_after = ready_after
        self.gpus = gpus
        self._sleep = sleep

    async def start(self, machine: MachineSpec) -> None:
        """Makes the Node as kubelet and the cloud controller would."""
        node = {
            "metadata": {"name": machine.node_name, "labels": machine.labels},
            "spec": {"providerID": machine.provider_id, "taints": list(machine.taints)},
        }
        with contextlib.suppress(AlreadyExists):
            await self._client.create(NODES, node)
        await self.set_ready(machine.node_name, ready=False)
        if self.ready_after:
            await self._sleep(self.ready_after)
        await self.set_ready(machine.node_name, ready=True)

    async def set_ready(self, name: str, *, ready: bool, gpus: int | None = None) -> None:
        """Writes the Ready condition and the GPUs, as kubelet would."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        resources = {"cpu": "6", "memory": "112Gi", "pods": "110"}
        count = self.gpus if gpus is None else gpus
        if ready and (count or gpus is not None):  # 0 is written out: a merge patch would keep what it does not name
            resources["nvidia.com/gpu"] = str(count)
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "KubeletReady" if ready else "KubeletNotReady",
            "message": "",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": resources, "allocatable": resources, "conditions": [condition]}
        with contextlib.suppress(NotFound):
            await self._client.patch(NODES, Key("", name), {"status": status}, subresource="status")

    async def stop(self, node_name: str) -> None:
        """Deletes the Node, as the cloud controller does when the machine is gone."""
        await self._client.delete(NODES, Key("", node_name))
