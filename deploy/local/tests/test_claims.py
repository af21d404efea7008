"""The claim stand-in on a real apiserver: claims become Ready, deleted claims take their node along."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kaito_api.conditions import ClaimCondition, find_condition, is_true
from kaito_api.labels import INSTANCE_TYPE, KARPENTER_FINALIZER, RESOURCE_GPU
from kaito_api.machine import Machine
from kaito_api.meta import Key, ObjectMeta, Resource
from kaito_api.nodeclaim import NodeClaim, NodeClaimSpec, NodeClassRef, Requirement
from kaito_api.resources import MACHINES, NODECLAIMS, NODES
from kaito_local.arm.nodes import MachineSpec, NoNodes
from kaito_local.claims import claim_conditions, claim_stand_in, machine_for
from kaito_local.nodes.backends import ReadyNodes, gpu_count
from kaito_local.pytest_plugin import ApiServer
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.errors import NotFound
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport

INSTANCE = {"key": INSTANCE_TYPE, "operator": "In", "values": ["Standard_NC12s_v3"]}
LABELS = {"kaito.sh/workspace": "w", "kaito.sh/workspacenamespace": "n", "accelerator": "nvidia"}
TAINT = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}


def claim_of(resource: Resource[Any], name: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"requirements": [INSTANCE], "taints": [TAINT]}
    if resource is NODECLAIMS:
        spec["nodeClassRef"] = {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
    else:
        spec["machineTemplateRef"] = {"name": "default"}
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "labels": LABELS},
        "spec": spec,
    }


@pytest.fixture
async def client(apiserver: ApiServer) -> AsyncIterator[Client]:
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="test") as transport:
        yield Client(transport)


async def is_gone(client: Client, resource: Resource[Any], name: str) -> bool:
    try:
        await client.get(resource, Key("", name))
    except NotFound:
        return True
    return False


@pytest.mark.integration
@pytest.mark.parametrize("resource", [NODECLAIMS, MACHINES], ids=["nodeclaim", "machine"])
async def test_a_claim_becomes_ready_and_its_deletion_takes_the_node_along(
    client: Client, resource: Resource[Any]
) -> None:
    name = f"w{uuid.uuid4().hex[:8]}"
    async with claim_stand_in(client, ReadyNodes(client), resource):
        await client.create(resource, claim_of(resource, name))

        async def ready() -> Any:
            claim = await client.get(resource, Key("", name))
            return claim if is_true(claim.status.conditions, "Ready") else None

        claim = await eventually(ready, timeout=60)
        assert claim.metadata.finalizers == [KARPENTER_FINALIZER]
        node = await client.get(NODES, Key("", claim.status.node_name))
        assert node.spec.provider_id == claim.status.provider_id
        assert claim.status.allocatable[RESOURCE_GPU] == "2"
        assert node.metadata.labels["accelerator"] == "nvidia"
        assert node.metadata.labels["kubernetes.azure.com/agentpool"] == name
        assert [(taint.key, taint.value, taint.effect) for taint in node.spec.taints] == [("sku", "gpu", "NoSchedule")]
        prefix = "Machine" if resource is MACHINES else ""
        types = {condition.type for condition in claim.status.conditions}
        assert types == {f"{prefix}Launched", f"{prefix}Registered", f"{prefix}Initialized", "Ready"}

        await client.delete(resource, Key("", name))
        await eventually(lambda: is_gone(client, resource, name), timeout=60)
        assert await is_gone(client, NODES, claim.status.node_name)


@pytest.mark.integration
async def test_a_claim_of_somebody_else_is_left_alone(client: Client) -> None:
    ours, theirs = (f"w{uuid.uuid4().hex[:8]}" for _ in range(2))
    foreign = claim_of(NODECLAIMS, theirs)
    foreign["metadata"]["labels"] = {}
    async with claim_stand_in(client, ReadyNodes(client)):
        await client.create(NODECLAIMS, foreign)
        await client.create(NODECLAIMS, claim_of(NODECLAIMS, ours))

        async def ready() -> bool:
            return is_true((await client.get(NODECLAIMS, Key("", ours))).status.conditions, "Ready")

        await eventually(ready, timeout=60)  # the later claim is served: the earlier one has been passed over
        untouched = await client.get(NODECLAIMS, Key("", theirs))
        assert untouched.metadata.finalizers == []
        assert untouched.status.conditions == []
        await client.delete(NODECLAIMS, Key("", ours))
        await client.delete(NODECLAIMS, Key("", theirs))
        await eventually(lambda: is_gone(client, NODECLAIMS, ours), timeout=60)


@pytest.mark.integration
async def test_a_claim_without_a_node_says_what_it_waits_for(client: Client) -> None:
    name = f"w{uuid.uuid4().hex[:8]}"
    async with claim_stand_in(client, NoNodes()):
        await client.create(NODECLAIMS, claim_of(NODECLAIMS, name))

        async def launched() -> Any:
            claim = await client.get(NODECLAIMS, Key("", name))
            return claim if is_true(claim.status.conditions, ClaimCondition.LAUNCHED) else None

        claim = await eventually(launched, timeout=60)
        rows = {condition.type: (condition.status, condition.reason) for condition in claim.status.conditions}
        assert rows["Registered"] == ("Unknown", "NodeNotFound")
        assert rows["Ready"] == ("Unknown", "ReconcilingDependents")
        assert claim.status.node_name == ""
        await client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: is_gone(client, NODECLAIMS, name), timeout=60)


def nodeclaim(uid: str = "u1") -> NodeClaim:
    requirement = Requirement(key=INSTANCE_TYPE, operator="In", values=["Standard_NC6s_v3", "Standard_NC12s_v3"])
    spec = NodeClaimSpec(
        node_class_ref=NodeClassRef(group="kaito.sh", kind="KaitoNodeClass", name="default"), requirements=[requirement]
    )
    return NodeClaim(metadata=ObjectMeta(name="wabc", uid=uid, labels=LABELS, generation=3), spec=spec)


def test_the_machine_of_a_claim_is_the_same_every_time_and_new_for_a_namesake() -> None:
    assert machine_for(nodeclaim()) == machine_for(nodeclaim())
    assert machine_for(nodeclaim()).provider_id != machine_for(nodeclaim(uid="u2")).provider_id
    machine: MachineSpec = machine_for(nodeclaim())
    assert machine.vm_size == "Standard_NC6s_v3"
    assert machine.labels.items() >= LABELS.items()


def test_a_machine_says_false_where_a_nodeclaim_says_unknown() -> None:
    old = Machine(metadata=ObjectMeta(name="wabc", uid="u1", generation=3))
    new_ready = find_condition(claim_conditions(nodeclaim(), launched=True, node=None), "Ready")
    old_ready = find_condition(claim_conditions(old, launched=True, node=None), "Ready")
    assert new_ready
    assert old_ready
    assert (new_ready.status, new_ready.observed_generation) == ("Unknown", 3)
    assert (old_ready.status, old_ready.observed_generation) == ("False", 0)


@pytest.mark.parametrize(
    ("size", "gpus"), [("Standard_NC6s_v3", 1), ("standard_nc24s_v3", 4), ("Standard_D2s_v5", 0), ("", 0)]
)
def test_gpus_of_a_size(size: str, gpus: int) -> None:
    assert gpu_count(size) == gpus
