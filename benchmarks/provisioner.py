"""How much of a claim's life is the gpu-provisioner's own time: a real kube-apiserver, the real SDK, the ARM stand-in.

Three latencies at N claims at once, without what the stand-in scripts: claim created -> PUT on the wire, Node Ready -> claim
Ready, claim deleted (no pod to wait for) -> DELETE on the wire. One pool for each claim, buckets wide open. Beside them the peak
memory of the provisioner's process, and what shared pools save under AKS's real limit of 20 PUTs and then one a minute, computed
with a simulated clock. The anchor of the latencies is the Go gpu-provisioner's own share of 5 to 35 s on create.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gpu_provisioner.cloud.bucket import FairBucket
from kaito_api.conditions import is_true
from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.arm.cloud import Timings
from kaito_local.arm.nodes import MachineSpec
from kaito_local.arm.server import ArmStandIn, serve
from kaito_local.controlplane import ControlPlane
from kaito_local.nodes.backends import ReadyNodes
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.informer import Event, Informer
from kubecore.transport import Transport

ANCHOR_CREATE_SECONDS = 5.0
MAX_POOLS = 100
MEMORY_GOAL_MIB = 220
SUBSCRIPTION = "--subscription-id=00000000-0000-0000-0000-000000000001"


class TimedNodes(ReadyNodes):
    """Nodes that are Ready at once, with the moment."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.ready_at: dict[str, float] = {}

    async def start(self, machine: MachineSpec) -> None:
        """Creates the Node and notes when."""
        await super().start(machine)
        self.ready_at[machine.provider_id] = time.monotonic()


def row(name: str, values: list[float], budget: float) -> str:
    """A row of the table of `python -m benchmarks`: p50 and p99 in milliseconds."""
    ordered = sorted(values)
    p50, p99 = statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    ratio = f"{p99 / ANCHOR_CREATE_SECONDS:.3f}"
    measured = f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms"
    verdict = "met" if p99 <= budget else "missed"
    note = f"n={len(values)}, goal p99 <= {budget} s {verdict}"
    return f"| provisioner: {name} | {measured} | Go: 5 s at best | {ratio} | {note} |"


def memory_row(name: str, pid: int, note: str) -> str:
    """A row with the process's peak resident memory."""
    mib = peak_mib(pid)
    verdict = "met" if mib <= MEMORY_GOAL_MIB else "missed"
    return f"| provisioner: {name} | {mib:.0f} MiB | - | - | goal RSS <= {MEMORY_GOAL_MIB} MiB {verdict}; {note} |"


async def claim(client: Client, name: str, workspace: str = "") -> float:
    """Creates a claim, of a Workspace whose claims share a pool or of none; the moment at which the apiserver had it."""
    annotations = {"kaito.sh/workspace-uid": workspace} if workspace else {}
    body = {
        "metadata": {"name": name, "labels": {"kaito.sh/workspace": workspace or name}, "annotations": annotations},
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
            ],
        },
    }
    await client.create(NODECLAIMS, body)
    return time.monotonic()


async def provisioner(arm: ArmStandIn, kubeconfig: Path, folder: Path) -> asyncio.subprocess.Process:
    """The service in a process of its own."""
    (folder / "assertion").write_text("x")
    flags = (
        SUBSCRIPTION,
        f"--resource-group={arm.identity.resource_group}",
        f"--cluster-name={arm.identity.cluster}",
        f"--tenant-id={arm.identity.tenant}",
        "--client-id=client",
        f"--federated-token-file={folder / 'assertion'}",
        f"--endpoint={arm.url}",
        f"--authority={arm.url.replace('127.0.0.1', 'localhost')}",
        f"--ca-file={arm.certificate}",
        "--no-leader-elect",
        "--put-burst=100000",
        "--list-active-seconds=1",
        "--health-port=0",
        "--metrics-port=0",
        "--log-level=warning",
    )
    env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "gpu_provisioner", *flags, env=env)


def peak_mib(pid: int) -> float:
    """Peak resident memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watched:
    """What the apiserver says about the claims, with the moments."""

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}
        self.provider: dict[str, str] = {}
        self.gone: set[str] = set()
        self._changed = asyncio.Event()

    def take(self, event: Event) -> None:
        """Notes one change of a claim."""
        if event.new is None:
            self.gone.add(event.key.name)
        elif is_true(event.new.status.conditions, "Ready"):
            self.ready.setdefault(event.key.name, time.monotonic())
            self.provider[event.key.name] = event.new.status.provider_id
        self._changed.set()

    async def until(self, done: set[str] | dict[str, float], names: list[str]) -> None:
        """Waits until all names are in `done`. Raises TimeoutError after two minutes."""
        try:
            async with asyncio.timeout(120):
                while not all(name in done for name in names):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            print("still waiting for:", [name for name in names if name not in done][:10], flush=True)
            raise


async def measure(count: int, kubeconfig: Path, folder: Path) -> None:
    """N claims at once through their whole life."""
    transport = Transport(load_config(str(kubeconfig)), user_agent="benchmark")
    async with transport, asyncio.TaskGroup() as group:
        client = Client(transport)
        nodes = TimedNodes(client)
        watched = Watched()
        informer = Informer(client, NODECLAIMS)
        informer.add_handler(watched.take)
        watching = group.create_task(informer.run())
        async with serve(folder, nodes, timings=Timings(node=0.2, create=0.4, delete=0.2)) as arm:
            process = await provisioner(arm, kubeconfig, folder)
            try:
                await claim(client, "warmup")
                await watched.until(watched.ready, ["warmup"])
                await client.delete(NODECLAIMS, Key("", "warmup"))
                await watched.until(watched.gone, ["warmup"])
                names = [f"b{n}" for n in range(count)]
                await measure_create(client, arm, nodes, watched, names, pid=process.pid)
                if count <= MAX_POOLS:
                    await measure_delete(client, arm, watched, names, process.pid)
            finally:
                process.terminate()
                await process.wait()
        watching.cancel()
        for node in await client.list(NODES):
            await client.delete(NODES, node.metadata.key)


async def measure_create(
    client: Client, arm: ArmStandIn, nodes: TimedNodes, watched: Watched, names: list[str], *, pid: int
) -> None:
    """All claims at once, until each is Ready. Above 100 claims, ten of a Workspace share a pool: a cluster has at most 100."""
    count = len(names)
    shared = count > MAX_POOLS
    owners = [f"uid-{n // 10}" if shared else "" for n in range(count)]
    idle = cpu_seconds(pid)
    claims = (claim(client, name, owner) for name, owner in zip(names, owners, strict=True))
    created = dict(zip(names, await asyncio.gather(*claims), strict=True))
    await watched.until(watched.ready, names)
    spent = (cpu_seconds(pid) - idle) / count * 1e3
    print(f"| provisioner: CPU, claim -> Ready, {count} | {spent:.1f} ms a claim | - | - | own process |")
    if shared:
        puts_sent = len([c for c in arm.wire.journal if c.route == "put"])
        note = f"{len(arm.wire.cloud.pools)} pools, {puts_sent} PUTs"
        print(memory_row(f"{count} claims in shared pools, all Ready", pid, note))
        return
    puts = {c.pool: c.at for c in arm.wire.journal if c.route == "put"}
    print(row(f"claim -> PUT, {count} at once", [puts[n] - created[n] for n in names], 0.3))
    waits = [watched.ready[n] - nodes.ready_at[watched.provider[n]] for n in names]
    print(row(f"Node Ready -> claim Ready, {count}", waits, 0.3))


async def measure_delete(client: Client, arm: ArmStandIn, watched: Watched, names: list[str], pid: int) -> None:
    """All claims deleted at once, until each is gone."""
    count = len(names)

    async def remove(name: str) -> float:
        await client.delete(NODECLAIMS, Key("", name))
        return time.monotonic()

    idle = cpu_seconds(pid)
    deleted = dict(zip(names, await asyncio.gather(*(remove(name) for name in names)), strict=True))
    await watched.until(watched.gone, names)
    spent = (cpu_seconds(pid) - idle) / count * 1e3
    print(f"| provisioner: CPU, delete -> gone, {count} | {spent:.1f} ms a claim | - | - | own process |")
    deletes = {c.pool: c.at for c in arm.wire.journal if c.route == "delete"}
    print(row(f"claim deleted -> DELETE, {count} at once", [deletes[n] - deleted[n] for n in names], 0.3))
    twice = len([c for c in arm.wire.journal if c.route == "put" and c.status == 201]) - count - 1
    print(memory_row(f"peak memory, {count} claims", pid, f"pools made twice: {twice}"))


def minutes_to_last_put(puts: int) -> float:
    """Minutes until the last of so many PUTs may go out under AKS's bucket, by the service's own bucket and a simulated clock."""
    bucket, now = FairBucket(18, 1 / 60), 0.0
    for number in range(puts):
        while (wait := bucket.take(f"p{number}", "workspace", now)) > 0:
            now += wait
    return now / 60


async def main(counts: list[int]) -> None:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as folder:
        plane = ControlPlane(Path(folder) / "plane")
        await plane.up()
        try:
            for count in counts:
                await measure(count, plane.kubeconfig, Path(folder))
        finally:
            await plane.down()
    each, pooled = minutes_to_last_put(50), minutes_to_last_put(1)
    print(
        f"| provisioner: 50 equal nodes, last PUT | {pooled:.0f} min (1 PUT) | {each:.0f} min (50 PUTs) | - | "
        "AKS bucket, simulated clock |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 500])
    asyncio.run(main(parser.parse_args().counts))
