"""Plays the node provisioner in a process of its own: every new claim has a Ready node at once, in two writes.

python benchmarks/_provisioner_standin.py KUBECONFIG
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from kaito_api import labels
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import NODECLAIMS, NODES
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.informer import Event, Informer
from kubecore.transport import Transport

WORKERS = 8
STAMP = "2026-01-01T00:00:00Z"


def node_body(name: str, node_labels: dict[str, str]) -> dict[str, Any]:
    """Return a Ready GPU node as a kubelet with a device plugin registers it."""
    quantities = {"nvidia.com/gpu": "1", "cpu": "6", "memory": "112Gi"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": STAMP}
    return {
        "metadata": {"name": name, "labels": node_labels},
        "status": {"capacity": quantities, "allocatable": quantities, "conditions": [ready]},
    }


def claim_status(node: str) -> dict[str, Any]:
    """Return the status of a claim whose node is ready."""
    steps = ("Launched", "Registered", "Initialized", "Ready")
    conditions = [
        {"type": step, "status": "True", "reason": step, "message": "", "lastTransitionTime": STAMP} for step in steps
    ]
    return {"status": {"nodeName": node, "providerID": f"azure:///{node}", "conditions": conditions}}


@asynccontextmanager
async def standin(kubeconfig: Path) -> AsyncIterator[None]:
    """Run the stand-in in a process of its own while the block lasts."""
    command = (sys.executable, __file__, str(kubeconfig))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the provisioner's stand-in did not start")
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def main(kubeconfig: str) -> None:
    """Serve claims until terminated."""
    queue: asyncio.Queue[NodeClaim] = asyncio.Queue()

    def on_claim(event: Event[NodeClaim]) -> None:
        if event.new is not None and event.old is None and not event.new.status.node_name:
            queue.put_nowait(event.new)

    async with Transport(load_config(kubeconfig), user_agent="provisioner-standin") as transport:
        client = Client(transport)
        claims = Informer(client, NODECLAIMS)
        claims.add_handler(on_claim)

        async def work() -> None:
            while True:
                claim = await queue.get()
                name = f"node-{claim.metadata.name}"
                wanted = next(r for r in claim.spec.requirements if r.key == labels.INSTANCE_TYPE).values[0]
                await client.create(NODES, node_body(name, {**claim.metadata.labels, labels.INSTANCE_TYPE: wanted}))
                await client.patch(NODECLAIMS, claim.metadata.key, claim_status(name), subresource="status")

        async with asyncio.TaskGroup() as group:
            group.create_task(claims.run())
            for _ in range(WORKERS):
                group.create_task(work())
            await claims.wait_synced(60)
            print("ready", flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
