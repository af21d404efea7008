"""Fifty equal nodes of one Workspace under AKS's real limits: minutes until the last claim is Ready, pooled and pool by pool.

    uv run --no-sync python benchmarks/provisioner_fleet.py [--nodes 50] [--factor 60]

The whole provisioner on a real kube-apiserver, the real SDK over TLS, the ARM stand-in with AKS's documented token buckets (20
PUTs, then one a minute; reads and deletions likewise) and Node objects in place of machines. Provisioner and buckets share a
clock of which `--factor` seconds pass in one: what is told is that clock's time. A machine takes 90 s of it to join. What the
processes need of the real time counts `--factor` times, so the result is an upper bound.
"""

import argparse
import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.settings import AzureSettings, Settings
from gpu_provisioner.wiring import Provisioner
from kaito_api.conditions import is_true
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.arm.bucket import aks_buckets
from kaito_local.arm.cloud import Timings
from kaito_local.arm.node_objects import NodeObjects
from kaito_local.arm.server import ArmStandIn, serve
from kaito_local.controlplane import ControlPlane
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.informer import Event, Informer
from kubecore.testing.clock import fast_clock
from kubecore.transport import Transport

JOIN_SECONDS = 90.0
PATIENCE_SECONDS = 400.0


def settings(arm: ArmStandIn, folder: Path, *, shared: bool) -> Settings:
    """As shipped, but for the stand-in's address, and the listing which runs on the fast clock."""
    assertion = folder / "assertion"
    assertion.write_text("x")
    azure = AzureSettings(**arm.settings(), federated_token_file=str(assertion))
    return Settings(azure=azure, shared_pools=shared, leader_elect=False, health_port=0, metrics_port=0)


async def fleet(
    plane: ControlPlane, folder: Path, count: int, factor: float, *, shared: bool
) -> tuple[float, int, int]:
    """Return the clock's minutes until the last claim was Ready, the PUTs that were accepted, and those throttled."""
    transport = Transport(load_config(str(plane.kubeconfig)), user_agent="benchmark")
    ready: set[str] = set()
    all_ready = asyncio.Event()

    def look(event: Event[NodeClaim]) -> None:
        if event.new is not None and is_true(event.new.status.conditions, "Ready"):
            ready.add(event.key.name)
            if len(ready) == count:
                all_ready.set()

    async with transport, fast_clock(factor) as clock, AsyncExitStack() as stack:
        client = Client(transport)
        timings = Timings(node=JOIN_SECONDS / factor, create=JOIN_SECONDS / factor, delete=JOIN_SECONDS / factor)
        nodes = NodeObjects(client)
        arm = await stack.enter_async_context(
            serve(folder, nodes, timings=timings, buckets=aks_buckets(), now=clock.monotonic)
        )
        chosen = settings(arm, folder, shared=shared)
        cloud = await stack.enter_async_context(connect(chosen.azure))
        service = Provisioner(
            client=client,
            cloud=cloud,
            kinds={ClaimKind.NODE_CLAIM},
            settings=chosen,
            clock=clock,
            registry=CollectorRegistry(),
        )
        watching = Informer(client, NODECLAIMS)
        watching.add_handler(look)
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(watching.run())
            running = group.create_task(service.manager.run())
            started = clock.monotonic()
            await asyncio.gather(*(client.create(NODECLAIMS, claim(f"n{number}")) for number in range(count)))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await all_ready.wait()
            minutes = (clock.monotonic() - started) / 60
            service.manager.stop()
            await running
            watcher.cancel()
        puts = [call.status for call in arm.wire.journal if call.route == "put"]
        await clean(client)
    return minutes, sum(status in {200, 201} for status in puts), puts.count(429)


def claim(name: str) -> dict[str, object]:
    """One of the Workspace's claims."""
    requirements = [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}]
    return {
        "metadata": {
            "name": name,
            "labels": {"kaito.sh/workspace": "phi"},
            "annotations": {"kaito.sh/workspace-uid": "uid-1"},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": requirements,
            "resources": {"requests": {"nvidia.com/gpu": "1"}},
        },
    }


async def clean(client: Client) -> None:
    """Take claims and nodes away, finalizers first: the provisioner has ended."""
    for resource in (NODECLAIMS, NODES):
        for found in await client.list(resource):
            key = Key("", found.metadata.name)
            if found.metadata.finalizers:
                await client.patch(resource, key, {"metadata": {"finalizers": []}})
            await client.delete(resource, key)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--factor", type=float, default=60.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as text:
        folder = Path(text)
        plane = ControlPlane(folder / "plane")
        await plane.up()
        try:
            results = [
                await fleet(plane, folder, options.nodes, options.factor, shared=shared) for shared in (True, False)
            ]
        finally:
            await plane.down()
    (pooled, pooled_puts, pooled_refused), (each, each_puts, each_refused) = results
    print(
        f"| provisioner: {options.nodes} equal nodes, all Ready | {pooled:.1f} min, {pooled_puts} PUT(s) "
        f"| pool for each: {each:.1f} min, {each_puts} PUTs | {pooled / each:.2f} "
        f"| AKS's buckets, {JOIN_SECONDS:g} s for a machine to join, clock {options.factor:g} times as fast; "
        f"429 answers: {pooled_refused} and {each_refused} |"
    )


if __name__ == "__main__":
    uvloop.run(main())
