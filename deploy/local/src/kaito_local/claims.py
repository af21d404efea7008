"""A stand-in for gpu-provisioner that knows only Karpenter's API: claims become nodes, deleted claims drain them.

It shows that the provisioner can be replaced, and serves local runs until they go through the ARM stand-in. It has no cloud, no
errors to classify and no pools; a claim's node comes from a NodeBackend.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from kaito_api import labels as names
from kaito_api.conditions import ClaimCondition, ClaimReason, MachineConditionType, Status, is_true, set_condition
from kaito_api.core.node import Node
from kaito_api.machine import Machine
from kaito_api.meta import Condition, Key, Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS, NODES
from kaito_local.arm.nodes import MachineSpec, NodeBackend
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.controller import Controller, Result
from kubecore.informer import Event, Informer

Claim = NodeClaim | Machine
CLAIM_APIS: dict[str, Resource[NodeClaim] | Resource[Machine]] = {"nodeclaim": NODECLAIMS, "machine": MACHINES}
"""The two generations of Karpenter's claim, by the name of the setting."""

_SCALE_SETS = (
    "azure:///subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/kaito-local/providers/Microsoft.Compute"
    "/virtualMachineScaleSets"
)
_RECONCILE_TIMEOUT = 400.0  # a node's start and a drain are waited for
_SYNC_TIMEOUT = 60.0


def machine_for(claim: Claim) -> MachineSpec:
    """The machine that a claim asks for: the first instance type of its requirements, its labels, its taints."""
    required = {each.key: each.values for each in claim.spec.requirements if each.operator == "In" and each.values}
    pool = claim.metadata.name
    scale_set = f"aks-{pool}-{hashlib.sha256(claim.metadata.uid.encode()).hexdigest()[:8]}-vmss"
    wanted = {key: values[0] for key, values in required.items() if len(values) == 1}
    own = {names.AGENT_POOL: pool, names.AGENT_POOL_LEGACY: pool, names.REGISTERED: "true", names.INITIALIZED: "true"}
    taints = tuple(
        {"key": taint.key, "value": taint.value, "effect": taint.effect}
        for taint in (*claim.spec.taints, *claim.spec.startup_taints)
    )
    return MachineSpec(
        node_name=f"{scale_set}000000",
        pool=pool,
        provider_id=f"{_SCALE_SETS}/{scale_set}/virtualMachines/0",
        vm_size=required.get(names.INSTANCE_TYPE, [""])[0],
        labels={**wanted, **claim.metadata.labels, **own},
        taints=taints,
    )


def claim_conditions(claim: Claim, launched: bool, node: Node | None) -> list[Condition]:
    """What Karpenter says of a claim: Launched, Registered, Initialized, and Ready as all of them; times are not set here."""
    ready = node is not None and node.ready
    steps = (
        (ClaimCondition.LAUNCHED, MachineConditionType.LAUNCHED, launched, ClaimReason.AWAITING_RECONCILIATION),
        (ClaimCondition.REGISTERED, MachineConditionType.REGISTERED, node is not None, ClaimReason.NODE_NOT_FOUND),
        (
            *(ClaimCondition.INITIALIZED, MachineConditionType.INITIALIZED, ready),
            ClaimReason.NODE_NOT_READY if node else ClaimReason.NODE_NOT_FOUND,
        ),
    )
    old = isinstance(claim, Machine)
    done = all(met for _, _, met, _ in steps)
    undone = Status.FALSE if old else Status.UNKNOWN  # failures were False in v1alpha5
    rows = [
        (str(machine_type if old else claim_type), met, reason if not met else str(machine_type if old else claim_type))
        for claim_type, machine_type, met, reason in steps
    ]
    rows.append((ClaimCondition.READY, done, ClaimCondition.READY if done else ClaimReason.RECONCILING_DEPENDENTS))
    generation = 0 if old else claim.metadata.generation
    return [
        Condition(type=type_, status=Status.TRUE if met else undone, reason=str(reason), observed_generation=generation)
        for type_, met, reason in rows
    ]


class ClaimStandIn:
    """Serves the claims of one API that a label selector picks, by default those of KAITO's workspaces."""

    def __init__(
        self,
        client: Client,
        backend: NodeBackend,
        claims: Resource[NodeClaim] | Resource[Machine] = NODECLAIMS,
        selector: str = names.WORKSPACE,
    ) -> None:
        """Starts nothing yet."""
        self._client = client
        self._backend = backend
        self._resource: Resource[Any] = claims
        self._clock = SystemClock()
        self._claims: Informer[NodeClaim] | Informer[Machine] = (
            Informer(client, NODECLAIMS, label_selector=selector)
            if claims is NODECLAIMS
            else Informer(client, MACHINES, label_selector=selector)
        )
        self._nodes = Informer(client, NODES, indexes={"provider": lambda node: [node.spec.provider_id]})
        self._controller = Controller(
            "claims", self._reconcile, workers=16, reconcile_timeout=_RECONCILE_TIMEOUT, clock=self._clock
        )

    async def run(self) -> None:
        """Serves until cancelled."""
        self._claims.add_handler(lambda event: self._controller.enqueue(event.key))
        self._nodes.add_handler(self._enqueue_claim)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run())
            group.create_task(self._nodes.run())
            await self._claims.wait_synced(_SYNC_TIMEOUT)
            await self._nodes.wait_synced(_SYNC_TIMEOUT)
            group.create_task(self._controller.run())

    def _enqueue_claim(self, event: Event[Node]) -> None:
        if pool := event.obj.metadata.labels.get(names.AGENT_POOL):
            self._controller.enqueue(Key("", pool))

    async def _reconcile(self, key: Key) -> Result | None:
        claim = self._claims.get(key)
        if claim is None:
            return None
        held = names.KARPENTER_FINALIZER in claim.metadata.finalizers
        machine = machine_for(claim)
        if claim.metadata.deleting:
            if held:
                await self._backend.stop(machine.node_name)
                await self._set_finalizer(claim, present=False)
            return None
        if not held:
            await self._set_finalizer(claim, present=True)
        type_ = MachineConditionType.LAUNCHED if self._resource is MACHINES else ClaimCondition.LAUNCHED
        if not is_true(claim.status.conditions, type_):
            await self._backend.start(machine)
        await self._report(claim, machine)
        return None

    async def _report(self, claim: Claim, machine: MachineSpec) -> None:
        """Writes the claim's status when it differs from what stands there."""
        node = next(iter(self._nodes.by_index("provider", machine.provider_id)), None)
        conditions = claim.status.conditions
        for condition in claim_conditions(claim, launched=True, node=node):
            conditions = set_condition(conditions, condition, self._clock.now())
        status = msgspec.structs.replace(claim.status, provider_id=machine.provider_id, conditions=conditions)
        if node:
            status = msgspec.structs.replace(
                status,
                node_name=node.metadata.name,
                capacity=node.status.capacity,
                allocatable=node.status.allocatable,
            )
        if status != claim.status:
            patch = {"status": msgspec.to_builtins(status)}
            await self._client.patch(self._resource, claim.metadata.key, patch, subresource="status")

    async def _set_finalizer(self, claim: Claim, present: bool) -> None:
        others = [name for name in claim.metadata.finalizers if name != names.KARPENTER_FINALIZER]
        wanted = [*others, names.KARPENTER_FINALIZER] if present else others
        metadata = {"finalizers": wanted, "resourceVersion": claim.metadata.resource_version}
        await self._client.patch(self._resource, claim.metadata.key, {"metadata": metadata})


@asynccontextmanager
async def claim_stand_in(
    client: Client,
    backend: NodeBackend,
    claims: Resource[NodeClaim] | Resource[Machine] = NODECLAIMS,
    selector: str = names.WORKSPACE,
) -> AsyncIterator[None]:
    """Serves claims while the block runs: for tests and measurements, in the process of the controller under test."""
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(ClaimStandIn(client, backend, claims, selector).run())
        try:
            yield
        finally:
            serving.cancel()
