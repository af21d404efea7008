"""The controller on a real kube-apiserver. The tests stand in for what is not there: provisioner, kubelet, controllers.

No kube-controller-manager runs, so nothing is garbage-collected and no StatefulSet makes its pods: a test does that
itself, at the moment at which it matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.conditions import find_condition
from kaito_api.core import Pod, StatefulSet
from kaito_api.machine import Machine
from kaito_api.meta import Condition, Key, Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS, NODES, PODS, STATEFULSETS, WORKSPACES
from kaito_api.workspace import Workspace
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.controller import RESULTS
from kubecore.errors import NotFound, NotServed
from kubecore.metrics import RECONCILES
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport
from workspace_controller.catalog_files import load_catalog
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.settings import ClaimApi, Settings
from workspace_controller.wiring import Wired, wire

ROOT = Path(__file__).parents[4]
CATALOG = Path(__file__).parents[1] / "catalog"

T = TypeVar("T")


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def true(*types: str) -> list[dict[str, Any]]:
    return [{"type": t, "status": "True", "reason": t, "message": "", "lastTransitionTime": stamp()} for t in types]


@dataclass
class Cluster:
    """What a test does to the cluster by hand, and what it reads from it."""

    client: Client
    namespace: str

    async def apply(self, manifest: dict[str, Any] | str, namespace: str | None = None) -> Workspace:
        """Create or change a Workspace as `kubectl apply --server-side` does."""
        body = yaml.safe_load(manifest) if isinstance(manifest, str) else dict(manifest)
        body["metadata"] = {**body["metadata"], "namespace": namespace or self.namespace}
        alpha = Resource("kaito.sh", body["apiVersion"].split("/")[1], "workspaces", "Workspace", True, Workspace)
        return await self.client.apply(alpha, body, manager="user")

    async def example(self, name: str, namespace: str | None = None) -> Workspace:
        """Apply one of KAITO's examples, unchanged."""
        return await self.apply((EXAMPLES / name).read_text(), namespace)

    def key(self, name: str) -> Key:
        return Key(self.namespace, name)

    async def find(self, res: Resource[T], name: str, namespace: str | None = None) -> T | None:
        try:
            return await self.client.get(res, Key(namespace or self.namespace if res.namespaced else "", name))
        except NotFound:
            return None

    async def workspace(self, name: str) -> Workspace:
        return await self.client.get(WORKSPACES, self.key(name))

    async def condition(self, name: str, type_: str) -> Condition | None:
        return find_condition((await self.workspace(name)).status.conditions, type_)

    async def becomes(self, name: str, type_: str, status: str, reason: str = "", timeout: float = 30) -> Condition:
        """Wait until a condition of the Workspace has that status (and reason)."""

        async def check() -> Condition | None:
            found = await self.condition(name, type_)
            assert found is not None
            assert (found.status, found.reason) == (status, reason or found.reason), found
            return found

        found = await eventually(check, timeout=timeout)
        assert found is not None
        return found

    async def claims(self, workspace: str, res: Resource[Any] = NODECLAIMS) -> list[NodeClaim | Machine]:
        selector = f"{labels.WORKSPACE}={workspace},{labels.WORKSPACE_NAMESPACE}={self.namespace}"
        return await self.client.list(res, label_selector=selector)

    async def claimed(self, workspace: str, count: int = 1, res: Resource[Any] = NODECLAIMS) -> list[Any]:
        """Wait for the claims of a Workspace."""

        async def check() -> list[Any]:
            found = await self.claims(workspace, res)
            assert len(found) == count, [claim.metadata.name for claim in found]
            return found

        return await eventually(check)

    async def claimed_within(self, workspace: str, seconds: float) -> None:
        """Wait for one claim, longer than usual."""

        async def check() -> bool:
            try:
                return len(await self.claims(workspace)) == 1
            except NotServed:
                return False

        await eventually(check, timeout=seconds)

    async def node(self, name: str, node_labels: dict[str, str], *, ready: bool = True, gpus: int = 1) -> None:
        """Register a node as a kubelet with a device plugin does."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": node_labels}}
        await self.client.create(NODES, body)
        await self.node_status(name, ready=ready, gpus=gpus)

    async def node_status(self, name: str, *, ready: bool, gpus: int = 1) -> None:
        quantities = {"nvidia.com/gpu": str(gpus)}
        ready_condition = {"type": "Ready", "status": "True" if ready else "Unknown", "lastTransitionTime": stamp()}
        status = {"conditions": [ready_condition], "capacity": quantities, "allocatable": quantities}
        await self.client.patch(NODES, Key("", name), {"status": status}, subresource="status")

    async def provision(self, claim: Any, res: Resource[Any] = NODECLAIMS) -> str:
        """Do the provisioner's part: a Ready node with the claim's labels, then the claim's status."""
        name = f"node-{claim.metadata.name}"
        wanted = next(r for r in claim.spec.requirements if r.key == labels.INSTANCE_TYPE).values[0]
        await self.node(name, {**claim.metadata.labels, labels.INSTANCE_TYPE: wanted})
        steps = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
        if res is NODECLAIMS:
            steps = ("Launched", "Registered", "Initialized", "Ready")
        status = {"nodeName": name, "providerID": f"azure:///{name}", "conditions": true(*steps)}
        await self.client.patch(res, claim.metadata.key, {"status": status}, subresource="status")
        return name

    async def statefulset(self, name: str) -> StatefulSet:
        """Wait for the StatefulSet."""
        found = await eventually(lambda: self.find(STATEFULSETS, name))
        assert found is not None
        return found

    async def run_pod(self, statefulset: StatefulSet, node: str, *, ready: bool = True, ordinal: int = 0) -> Pod:
        """Do the StatefulSet controller's, scheduler's and kubelet's part for one pod."""
        name = f"{statefulset.metadata.name}-{ordinal}"
        owner = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": statefulset.metadata.name,
            "uid": statefulset.metadata.uid,
            "controller": True,
        }
        workspace = statefulset.spec.selector["matchLabels"][labels.WORKSPACE]
        metadata = {
            "name": name,
            "namespace": self.namespace,
            "labels": {labels.WORKSPACE: workspace},
            "ownerReferences": [owner],
        }
        spec = {"nodeName": node, "containers": [{"name": "model-server", "image": "server"}]}
        await self.client.create(PODS, {"metadata": metadata, "spec": spec})
        pod = await self.pod_status(name, ready=ready)
        await self.statefulset_status(statefulset.metadata.name, ready=1 if ready else 0)
        return pod

    async def pod_status(self, name: str, *, ready: bool, container: dict[str, Any] | None = None) -> Pod:
        """Report a pod as kubelet does."""
        running = {"name": "model-server", "ready": ready, "restartCount": 0, "image": "server", "imageID": ""}
        running["state"] = {"running": {"startedAt": stamp()}}
        conditions = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": stamp()}]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container or running]}
        return await self.client.patch(PODS, self.key(name), {"status": status}, subresource="status")

    async def pod_fails(self, name: str, container: str, ended: dict[str, Any]) -> Pod:
        """Report the end of one container of a pod as kubelet does, the weights' or the server's."""

        def entry(which: str) -> dict[str, Any]:
            other = {"terminated": {"exitCode": 0, "reason": "Completed"}} if which == "weights" else {"waiting": {}}
            state = {"terminated": ended} if which == container else other
            restarts = int(which == container)
            return {
                "name": which,
                "ready": False,
                "restartCount": restarts,
                "image": "i",
                "imageID": "",
                "state": state,
            }

        unready = [{"type": "Ready", "status": "False", "lastTransitionTime": stamp()}]
        status = {"initContainerStatuses": [entry("weights")], "containerStatuses": [entry("model-server")]}
        body = {"status": {"phase": "Pending", "conditions": unready, **status}}
        return await self.client.patch(PODS, self.key(name), body, subresource="status")

    async def statefulset_status(
        self, name: str, *, ready: int, replicas: int = 1, updated: int | None = None, update_revision: str = "one"
    ) -> None:
        found = await self.client.get(STATEFULSETS, self.key(name))
        status = {
            "observedGeneration": found.metadata.generation,
            "replicas": replicas,
            "readyReplicas": ready,
            "updatedReplicas": replicas if updated is None else updated,
            "currentRevision": "one",
            "updateRevision": update_revision,
        }
        await self.client.patch(STATEFULSETS, self.key(name), {"status": status}, subresource="status")

    async def delete(self, name: str) -> None:
        """Delete a Workspace, stop its pod as kubelet would, and wait until it is gone."""
        await self.client.delete(WORKSPACES, self.key(name))
        await self.client.delete(PODS, self.key(f"{name}-0"), grace_seconds=0)

        async def gone() -> bool:
            return await self.find(WORKSPACES, name) is None

        await eventually(gone)

    async def serve(self, name: str) -> str:
        """Bring a Workspace on one node all the way to serving; returns the node's name."""
        (claim,) = await self.claimed(name)
        node = await self.provision(claim)
        await self.run_pod(await self.statefulset(name), node)
        await self.becomes(name, "WorkspaceSucceeded", "True")
        return node


EXAMPLES = Path(__file__).parent / "examples"
RunController = Callable[..., AbstractAsyncContextManager[Wired]]


@pytest.fixture
async def client(apiserver: Any) -> AsyncIterator[Client]:
    """A client of the test itself."""
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        yield Client(transport)


@pytest.fixture
async def cluster(client: Client, namespace: str) -> AsyncIterator[Cluster]:
    """The cluster as the test acts on it; cluster-scoped objects are removed afterwards.

    The controllers under test watch all namespaces, and all tests of a session share the apiserver: the count of claims and
    of writes holds only where no other Workspace stands.
    """
    others = [str(found.metadata.key) for found in await client.list(WORKSPACES)]
    assert not others, f"left behind by an earlier test: {others}"
    yield Cluster(client, namespace)
    for res in (NODECLAIMS, MACHINES):
        for claim in await client.list(res):
            if claim.metadata.finalizers:
                await client.patch(res, claim.metadata.key, {"metadata": {"finalizers": None}})
            await client.delete(res, claim.metadata.key)
    for node in await client.list(NODES):
        await client.delete(NODES, node.metadata.key, grace_seconds=0)


@pytest.fixture
def run_controller(apiserver: Any) -> RunController:
    """Returns a context manager that runs a whole controller, with its own connections, while its block lasts."""

    @asynccontextmanager
    async def running(
        claim_api: ClaimApi = ClaimApi.NODECLAIM,
        settings: Settings | None = None,
        fence: Callable[[], bool] | None = None,
        registry: CollectorRegistry | None = None,
        through: type[Client] = Client,
        **process: Any,
    ) -> AsyncIterator[Wired]:
        chosen = settings or Settings(claim_api=claim_api)
        ports = {"health_port": 0, "metrics_port": 0, "sweep_seconds": 3600.0, **process}
        cluster = load_config(str(apiserver.kubeconfig))
        async with Transport(cluster, user_agent="workspace-controller", field_manager="workspace-controller") as link:
            client = through(link, fence)
            wired = await wire(client, load_catalog(CATALOG), chosen, ProcessSettings(**ports), registry=registry)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(wired.manager.run())
                yield wired
                wired.manager.stop()
                await task

    return running


@pytest.fixture
def new_controller_writes(run_controller: Any) -> Callable[[], Awaitable[int]]:
    """Counts what a new controller writes between its start and the moment when it has nothing more to do."""

    def looks() -> float:
        return sum(RECONCILES.labels("workspace", result)._value.get() for result in RESULTS)

    async def count() -> int:
        writes: list[None] = []
        before = looks()
        async with run_controller(fence=lambda: writes.append(None) is None) as wired:
            queue = wired.controller.queue
            await eventually(lambda: looks() > before and queue.in_work == 0 and len(queue) == 0)
        return len(writes)

    return count
