"""Any provisioner that speaks Karpenter's API will do: here one that knows nothing of KAITO, and ours does not run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import NODECLAIMS, NODES
from kubecore.client import Client
from kubecore.errors import NotFound
from kubecore.informer import Event, Informer

pytestmark = pytest.mark.integration

NAME = "workspace-phi-3-mini"
STAMP = "2026-01-01T00:00:00Z"
FINALIZER = "karpenter.sh/termination"


class Karpenter:
    """Serves every NodeClaim as karpenter.sh/v1 documents it: a Node with the claim's labels and taints, then its status.

    It reads requirements, labels, taints and requests, and no annotation. It never looks at a name or a label of KAITO's.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._queue: asyncio.Queue[NodeClaim] = asyncio.Queue()
        self._begun: set[str] = set()
        self.claims: Informer[NodeClaim] = Informer(client, NODECLAIMS)
        self.claims.add_handler(self._changed)

    def _changed(self, event: Event[NodeClaim]) -> None:
        if event.new is not None:
            self._queue.put_nowait(event.new)

    async def run(self) -> None:
        while True:
            claim = await self._queue.get()
            if claim.metadata.deleting:
                await self._end(claim)
            elif claim.metadata.uid not in self._begun:
                self._begun.add(claim.metadata.uid)
                await self._begin(claim)

    async def _begin(self, claim: NodeClaim) -> None:
        name = f"karpenter-{claim.metadata.name}"
        single = {r.key: r.values[0] for r in claim.spec.requirements if r.operator == "In" and len(r.values) == 1}
        marks = {
            **claim.metadata.labels,
            **single,
            "karpenter.sh/registered": "true",
            "karpenter.sh/initialized": "true",
        }
        taints = [msgspec.to_builtins(taint) for taint in claim.spec.taints]
        await self._client.patch(NODECLAIMS, claim.metadata.key, {"metadata": {"finalizers": [FINALIZER]}})
        spec = {"providerID": f"other:///{name}", "taints": taints}
        await self._client.create(NODES, {"metadata": {"name": name, "labels": marks}, "spec": spec})
        offered = {"nvidia.com/gpu": "1", "cpu": "6", "memory": "112Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": STAMP}
        status = {"capacity": offered, "allocatable": offered, "conditions": [ready]}
        await self._client.patch(NODES, Key("", name), {"status": status}, subresource="status")
        steps = ("Launched", "Registered", "Initialized", "Ready")
        told = [{"type": s, "status": "True", "reason": s, "message": "", "lastTransitionTime": STAMP} for s in steps]
        body = {"status": {"nodeName": name, "providerID": f"other:///{name}", "conditions": told}}
        await self._client.patch(NODECLAIMS, claim.metadata.key, body, subresource="status")

    async def _end(self, claim: NodeClaim) -> None:
        await self._client.delete(NODES, Key("", f"karpenter-{claim.metadata.name}"), grace_seconds=0)
        with suppress(NotFound):  # told of its deletion twice
            await self._client.patch(NODECLAIMS, claim.metadata.key, {"metadata": {"finalizers": None}})


@asynccontextmanager
async def karpenter(client: Client) -> AsyncIterator[Karpenter]:
    async with asyncio.TaskGroup() as group:
        other = Karpenter(client)
        tasks = [group.create_task(other.claims.run()), group.create_task(other.run())]
        try:
            yield other
        finally:
            for task in tasks:
                task.cancel()


async def test_another_provisioner_brings_the_unchanged_example_to_ready(cluster: Any, run_controller: Any) -> None:
    async with karpenter(cluster.client) as other, run_controller():
        await cluster.example("inference-phi-3.yaml")
        statefulset = await cluster.statefulset(NAME)
        (claim,) = other.claims.list()
        node = f"karpenter-{claim.metadata.name}"
        await cluster.becomes(NAME, "NodeClaimReady", "True")
        await cluster.becomes(NAME, "ResourceReady", "True")
        await cluster.run_pod(statefulset, node)
        await cluster.becomes(NAME, "WorkspaceSucceeded", "True")
        found = await cluster.workspace(NAME)
        assert found.status.state == "Ready"
        assert found.status.worker_nodes == [node]
        await cluster.delete(NAME)
        assert await cluster.client.list(NODECLAIMS) == []
        assert await cluster.client.list(NODES) == []
