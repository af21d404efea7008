"""Plays AKS in a process of its own: the ARM stand-in over TLS, and Node objects in place of machines.

python benchmarks/_arm_process.py KUBECONFIG FOLDER SECONDS, told what to do by lines on its standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from kaito_api.meta import Key
from kaito_api.resources import NODES
from kaito_local.arm.cloud import Timings
from kaito_local.arm.nodes import MachineSpec
from kaito_local.arm.server import ArmStandIn, serve
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.transport import Transport

RESOURCES = {"cpu": "6", "memory": "112Gi", "pods": "110", "nvidia.com/gpu": "1"}


class Address(msgspec.Struct, frozen=True):
    """Where the stand-in answers, and as which cluster."""

    url: str
    certificate: str
    resource_group: str
    cluster: str
    tenant: str


class Journal(msgspec.Struct, frozen=True):
    """Moments (the machine's monotonic clock, seconds) at which calls arrived, by pool, and Nodes became Ready, by providerID."""

    puts: dict[str, float]
    deletes: dict[str, float]
    ready: dict[str, float]
    accepted: int
    pools: int


class StagedNodes:
    """Nodes that register at once and become Ready when told, or are Ready at first sight."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._registered: dict[str, str] = {}
        self.at_once = True
        self.ready_at: dict[str, float] = {}

    async def start(self, machine: MachineSpec) -> None:
        """Makes the Node in one request, as kubelet does."""
        node = {
            "metadata": {"name": machine.node_name, "labels": machine.labels},
            "spec": {"providerID": machine.provider_id, "taints": list(machine.taints)},
            "status": status(ready=self.at_once),
        }
        await self._client.create(NODES, node)
        if self.at_once:
            self.ready_at[machine.provider_id] = time.monotonic()
        else:
            self._registered[machine.node_name] = machine.provider_id

    async def stop(self, node_name: str) -> None:
        """Deletes the Node."""
        await self._client.delete(NODES, Key("", node_name))

    async def all_ready(self) -> None:
        """Every registered Node becomes Ready, all at once."""
        waiting, self._registered = self._registered, {}

        async def one(name: str, provider_id: str) -> None:
            await self._client.patch(NODES, Key("", name), {"status": status(ready=True)}, subresource="status")
            self.ready_at[provider_id] = time.monotonic()

        await asyncio.gather(*(one(name, provider_id) for name, provider_id in waiting.items()))


def bare_machine(name: str) -> MachineSpec:
    """A machine of no pool."""
    return MachineSpec(node_name=name, pool="", provider_id=f"azure:///{name}", vm_size="")


def status(*, ready: bool) -> dict[str, Any]:
    """A Node's status, as kubelet and a device plugin write it."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "Starting",
    }
    resources = RESOURCES if ready else {k: v for k, v in RESOURCES.items() if "/" not in k}
    return {"capacity": resources, "allocatable": resources, "conditions": [condition]}


class ArmProcess:
    """The benchmark's end of the pipe."""

    def __init__(self, process: asyncio.subprocess.Process, address: Address) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    async def tell(self, command: str) -> bytes:
        """Sends a command, waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        return await self._process.stdout.readline()

    async def journal(self) -> Journal:
        """What has arrived so far."""
        return msgspec.json.decode(await self.tell("journal"), type=Journal)


@asynccontextmanager
async def arm_process(kubeconfig: Path, folder: Path, seconds: float) -> AsyncIterator[ArmProcess]:
    """Run it while the block lasts. A machine boots, an operation ends `seconds` after its call."""
    command = (sys.executable, __file__, str(kubeconfig), str(folder), str(seconds))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 24)
    assert process.stdout is not None
    try:
        yield ArmProcess(process, msgspec.json.decode(await process.stdout.readline(), type=Address))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def answer(arm: ArmStandIn, nodes: StagedNodes) -> Journal:
    """The journal so far."""
    wire = arm.wire
    return Journal(
        puts={call.pool: call.at for call in wire.journal if call.route == "put"},
        deletes={call.pool: call.at for call in wire.journal if call.route == "delete"},
        ready=nodes.ready_at,
        accepted=len([call for call in wire.journal if call.route == "put" and call.status in (200, 201)]),
        pools=len(wire.cloud.pools),
    )


async def main(kubeconfig: str, folder: str, seconds: float) -> None:
    """Serve until the standard input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Transport(load_config(kubeconfig), user_agent="arm-standin") as transport:
        nodes = StagedNodes(Client(transport))
        timings = Timings(node=seconds, create=seconds + 0.5, delete=seconds)
        async with serve(Path(folder), nodes, timings=timings) as arm:
            where, who = (arm.url, str(arm.certificate)), arm.identity
            tell(Address(*where, resource_group=who.resource_group, cluster=who.cluster, tenant=who.tenant))
            while line := await lines.readline():
                command = line.decode().strip()
                if command == "ready":
                    await nodes.all_ready()
                elif command in ("at-once", "later"):
                    nodes.at_once = command == "at-once"
                elif command.startswith("nodes "):
                    await asyncio.gather(*(nodes.start(bare_machine(name)) for name in command.split()[1:]))
                elif command.startswith("no nodes "):
                    await asyncio.gather(*(nodes.stop(name) for name in command.split()[2:]))
                tell(answer(arm, nodes))


def tell(said: msgspec.Struct) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(said).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
