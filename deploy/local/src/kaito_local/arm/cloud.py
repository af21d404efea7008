"""The state behind the wire: agent pools, their machines and the operations that change them."""

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from .faults import Fault
from .nodes import MachineSpec, NodeBackend, parse_taint


@dataclass(frozen=True)
class Identity:
    """Which cluster the stand-in plays."""

    subscription: str = "00000000-0000-0000-0000-000000000001"
    resource_group: str = "kaito-rg"
    cluster: str = "kaito-aks"
    location: str = "eastus"
    tenant: str = "00000000-0000-0000-0000-0000000000aa"

    @property
    def pools_path(self) -> str:
        """Path of the agent-pool collection."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"
            f"/providers/Microsoft.ContainerService/managedClusters/{self.cluster}/agentPools"
        )

    @property
    def node_resource_group(self) -> str:
        """The group that holds the cluster's scale sets."""
        return f"MC_{self.resource_group}_{self.cluster}_{self.location}"


@dataclass(frozen=True)
class Timings:
    """How long the service takes, in seconds."""

    put_answer: float = 0.0
    node: float = 0.05
    create: float = 0.2
    delete: float = 0.1


@dataclass
class Operation:
    """A long-running operation; `status` is InProgress until it is Succeeded, Failed or Canceled."""

    id: str
    pool: str
    verb: str
    started: datetime
    status: str = "InProgress"
    error: dict[str, object] | None = None
    ended: datetime | None = None
    task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the service still works on it."""
        return self.task is not None and not self.task.done()

    def end(self, status: str, error: dict[str, object] | None = None) -> None:
        """Sets the final status."""
        self.status, self.error, self.ended = status, error, datetime.now(UTC)


@dataclass
class Pool:
    """One agent pool with its machines by node name."""

    name: str
    properties: dict[str, Any]
    state: str
    etag: str
    ordinal: int = 0
    machines: dict[str, MachineSpec] = field(default_factory=dict)
    operation: Operation | None = None


class Cloud:
    """Pools and operations. Each accepted change runs as a task of the group that the server owns."""

    def __init__(
        self,
        identity: Identity,
        timings: Timings,
        nodes: NodeBackend,
        tasks: asyncio.TaskGroup,
        sleep: Callable[[float], Any],
    ) -> None:
        self.identity = identity
        self.timings = timings
        self.pools: dict[str, Pool] = {}
        self.operations: dict[str, Operation] = {}
        self._nodes = nodes
        self._tasks = tasks
        self._sleep = sleep

    def snapshot(self) -> dict[str, Any]:
        """Pools and machines as plain data, for a stand-in that outlives its process."""
        return {
            name: {
                "properties": pool.properties,
                "state": pool.state,
                "ordinal": pool.ordinal,
                "machines": [asdict(machine) for machine in pool.machines.values()],
            }
            for name, pool in self.pools.items()
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes a snapshot back; what was under way when it was made counts as failed."""
        for name, kept in snapshot.items():
            state = kept["state"] if kept["state"] == "Succeeded" else "Failed"
            pool = Pool(name, kept["properties"], state, uuid.uuid4().hex, kept["ordinal"])
            for machine in kept["machines"]:
                spec = MachineSpec(**{**machine, "taints": tuple(machine["taints"])})
                pool.machines[spec.node_name] = spec
            self.pools[name] = pool

    def busy(self, pool: Pool) -> Operation | None:
        """The operation that holds the pool, if one runs."""
        return pool.operation if pool.operation is not None and pool.operation.running else None

    def put(self, name: str, properties: dict[str, Any], fault: Fault | None) -> tuple[Pool, Operation, bool]:
        """Creates or updates a pool; the flag says whether it is new."""
        pool = self.pools.get(name)
        new = pool is None
        if pool is None:
            pool = Pool(name, {"count": 0}, "Creating", uuid.uuid4().hex)
            self.pools[name] = pool
        else:
            pool.state = "Scaling" if properties.get("count") != pool.properties.get("count") else "Updating"
            pool.etag = uuid.uuid4().hex
        pool.properties = {**pool.properties, **properties}
        operation = self._begin(pool, "put")
        operation.task = self._tasks.create_task(self._grow(pool, operation, fault))
        return pool, operation, new

    def delete(self, pool: Pool, fault: Fault | None) -> Operation:
        """Deletes a pool; a create in flight is pre-empted and ends Canceled."""
        running = self.busy(pool)
        if running is not None and running.task is not None:
            running.task.cancel()
            running.end(
                "Canceled",
                {"code": "AKSOperationPreemptedByDelete", "message": "The operation was canceled by a later delete."},
            )
        pool.state = "Deleting"
        operation = self._begin(pool, "delete")
        operation.task = self._tasks.create_task(self._shrink(pool, operation, list(pool.machines), fault, last=True))
        return operation

    def delete_machines(self, pool: Pool, names: list[str], fault: Fault | None) -> Operation:
        """Deletes machines by name and lowers the count by as many."""
        pool.state = "DeletingMachines"
        operation = self._begin(pool, "deleteMachines")
        operation.task = self._tasks.create_task(self._shrink(pool, operation, names, fault, last=False))
        return operation

    def _begin(self, pool: Pool, verb: str) -> Operation:
        operation = Operation(str(uuid.uuid4()), pool.name, verb, datetime.now(UTC))
        self.operations[operation.id] = operation
        pool.operation = operation
        return operation

    def _machine(self, pool: Pool) -> MachineSpec:
        digest = hashlib.sha256(f"{self.identity.cluster}/{pool.name}".encode()).hexdigest()[:8]
        scale_set = f"aks-{pool.name}-{int(digest, 16) % 10**8:08d}-vmss"
        ordinal, pool.ordinal = pool.ordinal, pool.ordinal + 1
        zone = (pool.properties.get("availabilityZones") or ["0"])[0]
        labels = {
            "agentpool": pool.name,
            "kubernetes.azure.com/agentpool": pool.name,
            "kubernetes.azure.com/node-image-version": "AKSUbuntu-2204gen2containerd-202611.01.0",
            "node.kubernetes.io/instance-type": str(pool.properties.get("vmSize", "")),
            "topology.kubernetes.io/region": self.identity.location,
            "topology.kubernetes.io/zone": f"{self.identity.location}-{zone}",
            **(pool.properties.get("nodeLabels") or {}),
        }
        if pool.properties.get("scaleSetPriority") == "Spot":
            labels["kubernetes.azure.com/scalesetpriority"] = "spot"
        return MachineSpec(
            node_name=f"{scale_set}{_base36(ordinal):0>6}",
            pool=pool.name,
            provider_id=(
                f"azure:///subscriptions/{self.identity.subscription}/resourceGroups/{self.identity.node_resource_group.lower()}"
                f"/providers/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/{ordinal}"
            ),
            vm_size=str(pool.properties.get("vmSize", "")),
            labels=labels,
            taints=tuple(parse_taint(t) for t in pool.properties.get("nodeTaints") or ()),
        )

    async def _grow(self, pool: Pool, operation: Operation, fault: Fault | None) -> None:
        effect = fault.effect if fault else ""
        if effect == "stuck-pool":
            await asyncio.Event().wait()  # until a DELETE ends it
        wanted = int(pool.properties.get("count") or 0)
        while (
            len(pool.machines) > wanted
        ):  # the service picks the victims: whoever lowers a count loses a machine at random
            await self._remove(pool, next(iter(pool.machines)))
        await self._sleep(self.timings.node)
        limit = {"fail-operation": len(pool.machines), "partial": fault.machines if fault else 0}.get(effect, wanted)
        fresh = [self._machine(pool) for _ in range(max(0, min(wanted, limit) - len(pool.machines)))]
        for machine in fresh:
            pool.machines[machine.node_name] = machine
        if effect != "no-node":
            async with asyncio.TaskGroup() as boots:
                for machine in fresh:
                    boots.create_task(self._nodes.start(machine))
        await self._sleep(max(0.0, self.timings.create - self.timings.node))
        if fault and effect in ("fail-operation", "partial", "failed-but-alive"):
            pool.state = "Failed"
            operation.end("Failed", fault.error)
            return
        pool.state = "Succeeded"
        if effect != "stuck-operation":
            operation.end("Succeeded")

    async def _shrink(
        self, pool: Pool, operation: Operation, names: list[str], fault: Fault | None, *, last: bool
    ) -> None:
        await self._sleep(self.timings.delete)
        if fault and fault.effect == "fail-operation":
            pool.state = "Failed"
            operation.end("Failed", fault.error)
            return
        for name in names:
            await self._remove(pool, name)
        if last:
            self.pools.pop(pool.name, None)
        else:
            pool.properties["count"] = max(0, int(pool.properties.get("count") or 0) - len(names))
            pool.state = "Succeeded"
        operation.end("Succeeded")

    async def _remove(self, pool: Pool, name: str) -> None:
        if pool.machines.pop(name, None) is not None:
            await self._nodes.stop(name)


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    text = ""
    while True:
        number, rest = divmod(number, 36)
        text = digits[rest] + text
        if number == 0:
            return text
