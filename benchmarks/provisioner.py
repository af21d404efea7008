"""How much of a claim's life is the gpu-provisioner's own time: a real kube-apiserver, the real SDK, the ARM stand-in.

Latencies at N claims at once, without what the stand-in scripts: claim created -> PUT on the wire, Node Ready -> claim Ready (for
Nodes that register first and become Ready later, as machines do, and for Nodes that are Ready at first sight), claim deleted (no
pod to wait for) -> DELETE on the wire. One pool for each claim, buckets wide open. Moments are those of the answers: the
apiserver's to the create, the delete and the Node's status, and the stand-in's receipt of the call. Provisioner, stand-in,
kube-apiserver, etcd and this client are processes of their own and share the machine's cores: nothing is subtracted. So that the
scripted time separates the steps as real machines do, it is two seconds for each. All are known to the apiserver by a
ServiceAccount's token, as pods are.

The anchor is the floor of this machine: a bare client (_bare_claims.py) that does for as many claims only the writes to the
apiserver that must stand before the PUT, the claim's Ready or the DELETE, woken by the same watches, once before and once after
the provisioner; the ratio is that of the p99s. The Go gpu-provisioner's own share is 5 to 35 s on create.

Beside them processor time by process, writes to the apiserver and the peak memory of the provisioner's process. What shared pools
save under AKS's real limits is measured by provisioner_fleet.py.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import uvloop
from _arm_process import Address, ArmProcess, arm_process
from _bare_claims import bare_claims
from _control_plane import account_kubeconfig

from kaito_api.conditions import is_true
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.controlplane import ControlPlane
from kaito_local.ports import free_ports
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.informer import Event, Informer
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport

GOAL_SECONDS = 0.3
SCRIPTED_SECONDS = 2.0
SETTLE_SECONDS = 2.5
"""Between two steps, so that writes that nobody waits for belong to the step that caused them."""
MAX_POOLS = 100
MEMORY_GOAL_MIB = 220
SUBSCRIPTION = "--subscription-id=00000000-0000-0000-0000-000000000001"


class Latency(msgspec.Struct, frozen=True):
    """What one step took, claim by claim, seconds. `step` is the floor's that it is held against."""

    step: str
    name: str
    values: list[float]

    @property
    def p99(self) -> float:
        """The 99th percentile, the highest of up to a hundred."""
        return sorted(self.values)[min(len(self.values) - 1, int(len(self.values) * 0.99))]

    def __str__(self) -> str:
        return f"p50 {statistics.median(self.values) * 1e3:.0f} ms, p99 {self.p99 * 1e3:.0f} ms"

    def row(self, floors: list["Latency"]) -> str:
        """A row of the table of `python -m benchmarks`."""
        verdict = "met" if self.p99 <= GOAL_SECONDS else "missed"
        own = [floor for floor in floors if floor.step == self.step]
        lowest = statistics.mean(floor.p99 for floor in own)
        anchor = f"bare client p99 {' and '.join(f'{floor.p99 * 1e3:.0f}' for floor in own)} ms"
        note = f"n={len(self.values)}, goal p99 <= {GOAL_SECONDS} s {verdict}"
        return f"| provisioner: {self.name} | {self} | {anchor} | {self.p99 / lowest:.2f} | {note} |"


def floor_rows(floors: list[Latency]) -> list[str]:
    """What the bare client itself took."""
    return [f"| provisioner: {floor.name} | {floor} | - | - | n={len(floor.values)} |" for floor in floors]


def memory_row(name: str, pid: int, note: str) -> str:
    """A row with the process's peak resident memory."""
    mib = peak_mib(pid)
    verdict = "met" if mib <= MEMORY_GOAL_MIB else "missed"
    return f"| provisioner: {name} | {mib:.0f} MiB | - | - | goal RSS <= {MEMORY_GOAL_MIB} MiB {verdict}; {note} |"


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


def machine_seconds() -> tuple[float, float]:
    """Processor time since boot of all cores together, seconds: used, and used or idle."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), sum(ticks) / os.sysconf("SC_CLK_TCK")


class Service:
    """The provisioner's process, and what it cost since the last look."""

    def __init__(self, process: asyncio.subprocess.Process, metrics_port: int, others: dict[str, int]) -> None:
        self.pid = process.pid
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._pids = {"provisioner": process.pid, **others, "this client": os.getpid()}
        self._spent: dict[str, float] = {}
        self._writes: Counter[str] = Counter()
        self._busy, self._capacity = machine_seconds()
        self.disturbed = 0.0
        """Which part of the machine's cores was taken by processes that are not the benchmark's, at the last look."""

    async def since(self, count: int) -> str:
        """Milliseconds of processor time by process, and writes to the apiserver, each for one of `count` claims."""
        now = {name: cpu_seconds(pid) for name, pid in self._pids.items()}
        spent = {name: (value - self._spent.get(name, 0.0)) / count * 1e3 for name, value in now.items()}
        busy, capacity = machine_seconds()
        others = busy - self._busy - sum(spent.values()) * count / 1e3
        self.disturbed = max(0.0, others / (capacity - self._capacity))
        self._busy, self._capacity = busy, capacity
        sent = await self._sent()
        writes = {what: (number - self._writes[what]) / count for what, number in sent.items()}
        self._spent, self._writes = now, sent
        times = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
        calls = ", ".join(f"{value:.1f} {what}" for what, value in sorted(writes.items()) if value >= 0.05)
        return f"{times} ms | {calls} | - | processes of others took {self.disturbed:.0%} of the cores"

    async def settle(self, what: str, count: int) -> str:
        """Lets a step run out; the row of what it cost."""
        await asyncio.sleep(SETTLE_SECONDS)
        return f"| provisioner: cost of {what} | {await self.since(count)} |"

    async def _sent(self) -> Counter[str]:
        """Requests so far by verb and resource, without reads."""
        async with aiohttp.ClientSession() as session, session.get(self._metrics) as response:
            lines = (await response.text()).splitlines()
        sent: Counter[str] = Counter()
        for line in lines:
            if line.startswith("kubecore_requests_total{"):
                head, _, value = line.rpartition(" ")
                marks = dict(pair.split("=") for pair in head.partition("{")[2].rstrip("}").split(","))
                verb = marks["verb"].strip('"')
                if verb not in ("list", "watch", "get"):
                    sent[f"{verb} {marks['resource'].strip(chr(34))}"] += int(float(value))
        return sent


@asynccontextmanager
async def service(arm: Address, kubeconfig: Path, folder: Path, others: dict[str, int]) -> AsyncIterator[Service]:
    """The provisioner in a process of its own."""
    (folder / "assertion").write_text("x")
    (port,) = free_ports(1)
    flags = (
        SUBSCRIPTION,
        f"--resource-group={arm.resource_group}",
        f"--cluster-name={arm.cluster}",
        f"--tenant-id={arm.tenant}",
        "--client-id=client",
        f"--federated-token-file={folder / 'assertion'}",
        f"--endpoint={arm.url}",
        f"--authority={arm.url.replace('127.0.0.1', 'localhost')}",
        f"--ca-file={arm.certificate}",
        "--no-leader-elect",
        "--put-burst=100000",
        "--call-burst=100000",
        "--health-port=0",
        f"--metrics-port={port}",
        "--log-level=warning",
    )
    env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gpu_provisioner", *flags, env=env)
    try:
        yield Service(process, port, others)
    finally:
        process.terminate()
        await process.wait()


class Watched:
    """Which claims the apiserver says are Ready, with the moments."""

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}
        self.provider: dict[str, str] = {}
        self._changed = asyncio.Event()

    def take(self, event: Event[NodeClaim]) -> None:
        """Notes one change of a claim."""
        name = event.key.name
        if event.new is not None and name not in self.ready and is_true(event.new.status.conditions, "Ready"):
            self.ready[name] = time.monotonic()
            self.provider[name] = event.new.status.provider_id
            self._changed.set()

    async def until(self, names: list[str]) -> None:
        """Waits until all names are Ready."""
        while not all(name in self.ready for name in names):
            self._changed.clear()
            await self._changed.wait()


class Bench:
    """The user's side: makes claims, deletes them, sees what becomes of them."""

    def __init__(self, client: Client, arm: ArmProcess) -> None:
        self.client = client
        self.arm = arm

    async def connect(self) -> None:
        """Opens this client's connections, so that their handshakes are not taken for the provisioner's work."""
        await asyncio.gather(*(self.client.list(NODES) for _ in range(MAX_POOLS)))

    async def create(self, names: list[str], owners: list[str]) -> dict[str, float]:
        """All claims at once; the moments at which the apiserver had them."""

        async def one(name: str, owner: str) -> float:
            await self.client.create(NODECLAIMS, claim(name, owner))
            return time.monotonic()

        moments = await asyncio.gather(*(one(*each) for each in zip(names, owners, strict=True)))
        return dict(zip(names, moments, strict=True))

    async def delete(self, names: list[str]) -> dict[str, float]:
        """Deletes all at once; the moments at which the apiserver had marked them."""

        async def one(name: str) -> float:
            await self.client.delete(NODECLAIMS, Key("", name))
            return time.monotonic()

        return dict(zip(names, await asyncio.gather(*(one(name) for name in names)), strict=True))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Watched]:
        """Watches claims become Ready; only then, because each watcher costs the apiserver a third of a write."""
        watched = Watched()
        informer = Informer(self.client, NODECLAIMS)
        informer.add_handler(watched.take)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            running = group.create_task(informer.run())
            await informer.wait_synced(30)
            yield watched
            running.cancel()

    async def until(self, reached: Callable[[list[NodeClaim]], bool]) -> None:
        """Looks once a second, between the measured steps."""

        async def looked() -> bool:
            return reached(await self.client.list(NODECLAIMS))

        await eventually(looked, timeout=120, interval=1)

    async def put(self, names: list[str]) -> dict[str, float]:
        """When the PUTs of these pools arrived, once all have."""

        async def arrived() -> dict[str, float] | None:
            puts = (await self.arm.journal()).puts
            return puts if set(names) <= puts.keys() else None

        return await eventually(arrived, timeout=120, interval=0.25)


def registered(claims: list[NodeClaim]) -> bool:
    """Whether every claim has its Node."""
    return all(is_true(each.status.conditions, "Registered") for each in claims)


def none(claims: list[NodeClaim]) -> bool:
    """Whether every claim is gone."""
    return not claims


def claim(name: str, workspace: str) -> dict[str, object]:
    """A claim, of a Workspace whose claims share a pool or (empty) of none."""
    annotations = {"kaito.sh/workspace-uid": workspace} if workspace else {}
    return {
        "metadata": {"name": name, "labels": {"kaito.sh/workspace": workspace or name}, "annotations": annotations},
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
            ],
            "resources": {"requests": {"nvidia.com/gpu": "1"}},
        },
    }


@asynccontextmanager
async def bench(kubeconfig: Path, folder: Path) -> AsyncIterator[Bench]:
    """The stand-in, and the user's side with its connections open."""
    transport = Transport(load_config(str(kubeconfig)), user_agent="benchmark")
    async with transport, arm_process(kubeconfig, folder, SCRIPTED_SECONDS) as arm:
        made = Bench(Client(transport), arm)
        await made.connect()
        yield made


@asynccontextmanager
async def provisioner(b: Bench, plane: ControlPlane, kubeconfig: Path, folder: Path) -> AsyncIterator[Service]:
    """A provisioner that has had one claim already."""
    pids = {process.name: process.pid for process in plane.processes.all()}
    async with service(b.arm.address, kubeconfig, folder, {**pids, "ARM stand-in": b.arm.pid}) as running:
        async with b.watching() as watched:
            await b.create(["warmup"], [""])
            await watched.until(["warmup"])
        await b.delete(["warmup"])
        await b.until(none)
        await running.settle("the start", 1)
        yield running
    for node in await b.client.list(NODES):
        await b.client.delete(NODES, node.metadata.key)


async def measure_floor(b: Bench, kubeconfig: Path, count: int, mark: str) -> list[Latency]:
    """The same life by the bare client: created, Nodes that register and become Ready all at once, deleted."""
    names = [f"{mark}{n}" for n in range(count)]
    async with bare_claims(kubeconfig) as bare:
        created = await b.create(names, [""] * count)

        async def patched() -> dict[str, float] | None:
            bought = (await bare.tell("look")).bought
            return bought if set(names) <= bought.keys() else None

        bought = await eventually(patched, timeout=120, interval=0.25)
        await b.arm.tell("later")
        await b.arm.tell(f"nodes {' '.join(names)}")
        await b.arm.tell("at-once")
        await asyncio.sleep(SETTLE_SECONDS)
        async with b.watching() as watched:
            await b.arm.tell("ready")
            await watched.until(names)
        ready_at = (await b.arm.journal()).ready
        await asyncio.sleep(SETTLE_SECONDS)
        marked = await b.delete(names)
        await asyncio.sleep(SETTLE_SECONDS)
        seen = (await bare.tell("let go")).deleted
        await b.until(none)
        await b.arm.tell(f"no nodes {' '.join(names)}")
    ready = [watched.ready[n] - ready_at[watched.provider[n]] for n in names]
    return [
        Latency(
            "PUT", f"floor: claim -> its one patch answered, {count} at once", [bought[n] - created[n] for n in names]
        ),
        Latency("Ready", f"floor: Node Ready -> its claim's one patch seen, {count}", ready),
        Latency("DELETE", f"floor: claim deleted -> seen, {count} at once", [seen[n] - marked[n] for n in names]),
    ]


async def measure(b: Bench, running: Service, count: int) -> tuple[list[Latency], list[str]]:
    """N claims at once through their whole life, Nodes Ready after they have registered; then N more, Ready at first sight."""
    found: list[Latency] = []
    costs: list[str] = []
    for way in ("later", "at-once"):
        names = [f"b{way[0]}{n}" for n in range(count)]
        await b.arm.tell(way)
        created = await b.create(names, [""] * count)
        puts = await b.put(names)
        found.append(Latency("PUT", f"claim -> PUT, {count} at once", [puts[n] - created[n] for n in names]))
        if way == "later":
            await b.until(registered)
            costs.append(await running.settle("claim -> registered", count))
        async with b.watching() as watched:
            if way == "later":
                await b.arm.tell("ready")
            await watched.until(names)
        costs.append(await running.settle("Ready" if way == "later" else "claim -> Ready", count))
        ready_at = (await b.arm.journal()).ready
        seen = "" if way == "later" else " (at first sight)"
        waits = [watched.ready[n] - ready_at[watched.provider[n]] for n in names]
        found.append(Latency("Ready", f"Node Ready{seen} -> claim Ready, {count}", waits))
        deleted = await b.delete(names)
        await b.until(none)
        costs.append(await running.settle("deletion", count))
        deletes = (await b.arm.journal()).deletes
        waits = [deletes[n] - deleted[n] for n in names]
        found.append(Latency("DELETE", f"claim deleted -> DELETE, {count} at once", waits))
    twice = (await b.arm.journal()).accepted - 2 * count - 1
    return found, [*costs, memory_row(f"peak memory, {count} claims", running.pid, f"pools made twice: {twice}")]


async def rows(b: Bench, plane: ControlPlane, kubeconfig: Path, folder: Path, count: int) -> list[str]:
    """All rows for this many claims."""
    if count > MAX_POOLS:
        async with provisioner(b, plane, kubeconfig, folder) as running:
            return await measure_shared(b, running, count)
    floors = await measure_floor(b, kubeconfig, count, "f")
    async with provisioner(b, plane, kubeconfig, folder) as running:
        found, costs = await measure(b, running, count)
    floors += await measure_floor(b, kubeconfig, count, "g")
    return [*floor_rows(floors), *(each.row(floors) for each in found), *costs]


async def measure_shared(b: Bench, running: Service, count: int) -> list[str]:
    """Above 100 claims, ten of a Workspace share a pool: a cluster has at most 100."""
    names = [f"s{n}" for n in range(count)]
    before = (await b.arm.journal()).accepted
    async with b.watching() as watched:
        await b.create(names, [f"uid-{n // 10}" for n in range(count)])
        await watched.until(names)
    cost = await running.settle(f"claim -> Ready, {count}", count)
    journal = await b.arm.journal()
    note = f"{journal.pools} pools, {journal.accepted - before} PUTs"
    return [cost, memory_row(f"{count} claims in shared pools, all Ready", running.pid, note)]


async def main(counts: list[int]) -> None:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="kaito-bench-") as folder:
        plane = ControlPlane(Path(folder) / "plane")
        await plane.up()
        try:
            kubeconfig = await account_kubeconfig(plane)
            for count in counts:
                async with bench(kubeconfig, Path(folder)) as b:
                    print(*await rows(b, plane, kubeconfig, Path(folder), count), sep="\n", flush=True)
        finally:
            await plane.down()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 500])
    uvloop.run(main(parser.parse_args().counts))
