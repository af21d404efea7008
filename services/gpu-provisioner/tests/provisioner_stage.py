"""A stage for the provisioner's tests: a real kube-apiserver, the ARM stand-in over TLS, Node objects in place of kubelets.

With $KAITO_TEST_STACK the stand-in is the container that `make test-compose` runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.settings import AzureSettings, Settings
from gpu_provisioner.wiring import Provisioner
from kaito_api.conditions import find_condition
from kaito_api.meta import Key, Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import EVENTS, MACHINES, NODECLAIMS, NODES
from kaito_local.arm.bucket import TokenBucket
from kaito_local.arm.cloud import Pool, Timings
from kaito_local.arm.node_objects import NodeObjects
from kaito_local.arm.server import ArmStandIn, serve
from kaito_local.compose.arm_remote import RemoteArm
from kaito_local.compose.stack import running_stack
from kaito_local.pytest_plugin import ApiServer
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import Conflict, NotFound
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock
from kubecore.transport import Transport


@dataclass
class Stage:
    client: Client
    arm: ArmStandIn | RemoteArm
    nodes: NodeObjects
    settings: Settings
    clock: FakeClock | None = None

    @asynccontextmanager
    async def provisioner(self, kinds: set[ClaimKind] | None = None) -> AsyncIterator[Provisioner]:
        """One running replica."""
        async with connect(self.settings.azure) as cloud:
            service = Provisioner(
                client=Client(self.client.transport),
                cloud=cloud,
                kinds=kinds or {ClaimKind.NODE_CLAIM, ClaimKind.MACHINE},
                settings=self.settings,
                clock=self.clock,
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

    async def reason(self, name: str, type_: str, reason: str) -> bool:
        return (await self.condition(name, type_))[1] == reason

    async def event(self, name: str, reason: str) -> str:
        """The message of an event about the claim, "" before it is there."""
        return next(iter(await self._messages(name, reason)), "")

    async def said(self, name: str, reason: str, words: str) -> None:
        """Waits for an event about the claim with these words: events are sent beside the work."""

        async def there() -> bool:
            messages = await self._messages(name, reason)
            assert any(words in message for message in messages), messages
            return True

        await eventually(there, timeout=90)

    async def _messages(self, name: str, reason: str) -> list[str]:
        events = await self.client.list(EVENTS)
        return [e.message for e in events if e.involved_object.name == name and e.reason == reason]

    async def tear_out(self, resource: Resource[Any], name: str) -> None:
        """The object goes without a farewell. A finalizer that the provisioner puts back meanwhile would give it one."""
        while True:
            with suppress(Conflict):
                bare = await self.client.patch(resource, Key("", name), {"metadata": {"finalizers": []}})
                version = bare.metadata.resource_version
                return await self.client.delete(resource, Key("", name), resource_version=version)

    def pool(self) -> Pool:
        """The only pool that there is."""
        (pool,) = self.arm.wire.cloud.pools.values()
        return pool

    async def ready(self, *names: str) -> None:
        async def all_ready() -> bool:
            return all([(await self.condition(name, "Ready"))[0] == "True" for name in names])

        await eventually(all_ready, timeout=90)

    async def labelled(self, name: str, key: str, value: str) -> None:
        """Waits for a label of the claim: the provisioner writes them after the conditions."""

        async def there() -> bool:
            return (await self.get(name)).metadata.labels.get(key) == value

        await eventually(there, timeout=90)

    async def settled(self, name: str) -> None:
        """Waits until all is written about a Ready claim and its Node: what nobody waits for comes after the conditions."""
        await self.ready(name)
        await self.labelled(name, "topology.kubernetes.io/region", "eastus")
        node = (await self.get(name)).status.node_name

        async def marked() -> bool:
            found = await self.client.get(NODES, Key("", node))
            return found.metadata.labels.get("karpenter.sh/initialized") == "true"

        await eventually(marked, timeout=90)

    def calls(self, route: str) -> list[Any]:
        return [c for c in self.arm.wire.journal if c.route == route]


@asynccontextmanager
async def stage(
    apiserver: ApiServer,
    folder: Path,
    *,
    shared: bool = True,
    timings: Timings | None = None,
    clock: FakeClock | None = None,
    buckets: dict[str, TokenBucket] | None = None,
    **changes: Any,
) -> AsyncIterator[Stage]:
    """`clock`: the provisioner's, and the throttling's of the stand-in. `changes` to the settings."""
    transport = Transport(load_config(str(apiserver.kubeconfig)), user_agent="test")
    async with transport:
        client = Client(transport)
        nodes = NodeObjects(client)
        async with stand_in(folder, nodes, timings, buckets, clock) as arm:
            assertion = folder / "assertion"
            assertion.write_text("x")
            settings = Settings(
                azure=AzureSettings(**arm.settings(), federated_token_file=str(assertion)),
                shared_pools=shared,
                leader_elect=False,
                list_active_seconds=0.05 if clock is None else 1.0,  # of a clock that runs many times as fast
                list_idle_seconds=0.2 if clock is None else 4.0,
                put_burst=1000.0,
                call_burst=1000.0,
                health_port=0,
                metrics_port=0,
            )
            try:
                yield Stage(client, arm, nodes, msgspec.structs.replace(settings, **changes), clock)
            finally:
                await clean(client)


@asynccontextmanager
async def stand_in(
    folder: Path,
    nodes: NodeObjects,
    timings: Timings | None,
    buckets: dict[str, TokenBucket] | None,
    clock: FakeClock | None,
) -> AsyncIterator[ArmStandIn | RemoteArm]:
    """The stand-in in this process, or the container's, as new before and after."""
    if stack := running_stack():
        assert buckets is None, "the container throttles nobody"
        assert clock is None, "the container has the machine's clock"
        yield RemoteArm(stack.arm, timings)
        RemoteArm(stack.arm)
        return
    now = clock.monotonic if clock is not None else time.monotonic
    async with serve(folder, nodes, timings=timings, buckets=buckets, now=now) as arm:
        yield arm


async def clean(client: Client) -> None:
    """Cluster-scoped objects outlive a namespace: take them away, finalizers first."""
    for resource in (NODECLAIMS, MACHINES, NODES):
        for obj in await client.list(resource):
            if obj.metadata.finalizers:
                await client.patch(resource, obj.metadata.key, {"metadata": {"finalizers": []}})
            await client.delete(resource, obj.metadata.key)
