"""The provisioner as a process that kills itself (SIGKILL) right after its Nth change of the world. Not a test by itself.

A change is a write to the apiserver or a PUT, DELETE or deleteMachines call to ARM, counted when its answer has come. Each is
printed as a line, so that a run without a limit tells how many points there are. CLOCK_FACTOR seconds of the provisioner's clock
pass in one.
"""

import asyncio
import logging
import os
import signal
import sys
from typing import Any

from gpu_provisioner.cloud.azure import AksAgentPools, connect
from gpu_provisioner.pools.plan import CloudPool
from gpu_provisioner.settings import parse
from gpu_provisioner.wiring import Provisioner, served_kinds
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.testing.clock import fast_clock
from kubecore.transport import Request, Transport


class Fuse:
    """Counts changes and kills the process after the last one allowed; 0 allows all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def burn(self, what: str) -> None:
        self._count += 1
        print(f"change {self._count}: {what}", flush=True)
        if self._count == self._limit:
            os.kill(os.getpid(), signal.SIGKILL)


class FusedTransport(Transport):
    """The real transport, with the fuse behind every write."""

    fuse: Fuse

    async def request(self, request: Request, **options: Any) -> bytes:
        answer = await super().request(request, **options)
        if request.method != "GET" and "/leases" not in request.path and "/events" not in request.path:
            self.fuse.burn(f"{request.method} {request.path.partition('?')[0]}")
        return answer


class FusedPools:
    """The real adapter, with the fuse behind every change."""

    def __init__(self, pools: AksAgentPools, fuse: Fuse) -> None:
        self._pools = pools
        self._fuse = fuse
        self.get = pools.get
        self.list = pools.list
        self.machines = pools.machines
        self.has_machine = pools.has_machine

    async def put(self, name: str, body: dict[str, Any], *, replaces: CloudPool | None) -> None:
        await self._pools.put(name, body, replaces=replaces)
        self._fuse.burn(f"PUT agentPools/{name}")

    async def delete(self, name: str) -> bool:
        there = await self._pools.delete(name)
        self._fuse.burn(f"DELETE agentPools/{name}")
        return there

    async def delete_machines(self, name: str, machines: tuple[str, ...]) -> None:
        await self._pools.delete_machines(name, machines)
        self._fuse.burn(f"deleteMachines agentPools/{name}")


async def run() -> None:
    fuse = Fuse(int(os.environ["KILL_AFTER"]))
    settings = parse(sys.argv[1:], os.environ)
    transport = FusedTransport(load_config(), user_agent="killable")
    transport.fuse = fuse
    async with transport, connect(settings.azure) as cloud, fast_clock(float(os.environ["CLOCK_FACTOR"])) as clock:
        client = Client(transport)
        pools = FusedPools(cloud, fuse)
        kinds = await served_kinds(client)
        service = Provisioner(client=client, cloud=pools, kinds=kinds, settings=settings, clock=clock)
        await service.manager.run()


if __name__ == "__main__":
    logging.getLogger("azure").setLevel(logging.WARNING)
    asyncio.run(run())
