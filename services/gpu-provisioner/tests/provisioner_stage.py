"""A stage for the provisioner's tests: a real kube-apiserver, the ARM stand-in over TLS, Node objects in place of kubelets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.settings import AzureSettings, Settings
from gpu_provisioner.wiring import Provisioner
from kaito_api.conditions import find_condition
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS, NODES
from kaito_local.arm.cloud import Timings
from kaito_local.arm.node_objects import NodeObjects
from kaito_local.arm.server import ArmStandIn, serve
from kaito_local.pytest_plugin import ApiServer
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import NotFound
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport


@dataclass
class Stage:
    client: Client
    arm: ArmStandIn
    nodes: NodeObjects
    settings: Settings

    @asynccontextmanager
    async def provisioner(self, kinds: set[ClaimKind] | None = None) -> AsyncIterator[Provisioner]:
        """One running replica."""
        async with connect(self.settings.azure) as cloud:
            service = Provisioner(
                client=Client(self.client.transport),
                cloud=cloud,
                kinds=kinds or {ClaimKind.NODE_CLAIM, ClaimKind.MACHINE},
                settings=self.settings,
                registry=CollectorRegistry(),
            )
            async with asyncio.TaskGroup() as group:
                running = group.create_task(service.manager.run())
                try:
                    yield service
                finally:
                    service.manager.stop()
                    await running

    async def claim(self, name: str, workspace: str = "", **spec: Any) -> None:
        types = spec.pop("types", ["Standard_NC6s_v3"])
        body = {
            "metadata": {
                "name": name,
                "labels": {"kaito.sh/workspace": "phi", "karpenter.sh/nodepool": "kaito"},
                "annotations": {"kaito.sh/workspace-uid": workspace} if workspace else {},
            },
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": types}],
                "resources": {"requests": {"storage": "80Gi"}},
                **spec,
            },
        }
        await self.client.create(NODECLAIMS, body)

    async def get(self, name: str) -> NodeClaim:
        return await self.client.get(NODECLAIMS, Key("", name))

    async def is_gone(self, name: str) -> bool:
        try:
            await self.get(name)
        except NotFound:
            return True
        return False

    async def condition(self, name: str, type_: str) -> tuple[str, str, str]:
        found = find_condition((await self.get(name)).status.conditions, type_)
        return (found.status, found.reason, found.message) if found else ("", "", "")

    async def ready(self, *names: str) -> None:
        async def all_ready() -> bool:
            return all([(await self.condition(name, "Ready"))[0] == "True" for name in names])

        await eventually(all_ready, timeout=20)

    def calls(self, route: str) -> list[Any]:
        return [c for c in self.arm.wire.journal if c.route == route]


@asynccontextmanager
async def stage(
    apiserver: ApiServer, folder: Path, *, shared: bool = True, timings: Timings | None = None
) -> AsyncIterator[Stage]:
    transport = Transport(load_config(str(apiserver.kubeconfig)), user_agent="test")
    async with transport:
        client = Client(transport)
        nodes = NodeObjects(client)
        async with serve(folder, nodes, timings=timings) as arm:
            assertion = folder / "assertion"
            assertion.write_text("x")
            settings = Settings(
                azure=AzureSettings(
                    subscription_id=arm.identity.subscription,
                    resource_group=arm.identity.resource_group,
                    cluster_name=arm.identity.cluster,
                    tenant_id=arm.identity.tenant,
                    client_id="client",
                    federated_token_file=str(assertion),
                    endpoint=arm.url,
                    authority=arm.url.replace("127.0.0.1", "localhost"),
                    ca_file=str(arm.certificate),
                ),
                shared_pools=shared,
                leader_elect=False,
                list_active_seconds=0.05,
                list_idle_seconds=0.2,
                put_burst=1000.0,
                health_port=0,
                metrics_port=0,
            )
            try:
                yield Stage(client, arm, nodes, settings)
            finally:
                await clean(client)


async def clean(client: Client) -> None:
    """Cluster-scoped objects outlive a namespace: take them away, finalizers first."""
    for resource in (NODECLAIMS, MACHINES, NODES):
        for obj in await client.list(resource):
            if obj.metadata.finalizers:
                await client.patch(resource, obj.metadata.key, {"metadata": {"finalizers": []}})
            await client.delete(resource, obj.metadata.key)
