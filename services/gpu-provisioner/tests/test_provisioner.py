"""The whole provisioner against a real kube-apiserver, the real Azure SDK and the ARM stand-in."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from provisioner_stage import Stage, stage

from kaito_api.conditions import find_condition
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, NODES, PODS
from kaito_local.arm.cloud import Timings
from kaito_local.arm.faults import Fault, flat
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ALLOCATION = {
    "code": "ReconcileVMSSAgentPoolFailed",
    "message": "",
    "details": [{"code": "AllocationFailed", "message": "no room"}],
}
QUOTA = flat(
    "ErrCode_InsufficientVCPUQuota", "Insufficient vcpu quota requested 6, remaining 0 for family standardNCSv3Family"
)


@pytest.fixture
def name() -> str:
    return f"w{uuid.uuid4().hex[:9]}"


async def test_a_claim_becomes_a_ready_node_and_leaves_nothing_behind(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        await s.claim(name)
        await s.settled(name)
        claim = await s.get(name)
        assert claim.status.provider_id.startswith("azure:///subscriptions/")
        assert claim.status.allocatable["nvidia.com/gpu"] == claim.status.capacity["nvidia.com/gpu"] == "1"
        assert claim.status.image_id.startswith("AKSUbuntu-2204gen2containerd-")
        assert claim.metadata.labels["node.kubernetes.io/instance-type"] == "Standard_NC6s_v3"
        node = await s.client.get(NODES, Key("", claim.status.node_name))
        assert node.metadata.labels["karpenter.sh/initialized"] == "true"
        assert node.metadata.finalizers == ["karpenter.sh/termination"]
        assert [(o.kind, o.uid) for o in node.metadata.owner_references] == [("NodeClaim", claim.metadata.uid)]
        (pool,) = s.arm.wire.cloud.pools.values()
        assert pool.properties["tags"] == {"kaito-managed-by": "gpu-provisioner"}
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}
        assert await s.client.list(NODES) == []
        assert len(s.calls("put")) == 1


async def test_a_claim_is_ready_while_aks_still_says_creating(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    """The Node tells the providerID; the operation's end is not waited for."""
    async with stage(apiserver, tmp_path, timings=Timings(node=0.1, create=300)) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        assert s.pool().state == "Creating"
        assert s.calls("operation") == []


async def test_startup_taints_hold_initialization_and_stay_removed(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    startup = {"key": "cni.example.com/agent", "effect": "NoSchedule"}
    lasting = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        await s.claim(name, startupTaints=[startup], taints=[lasting])
        await eventually(lambda: s.reason(name, "Initialized", "StartupTaintsExist"), timeout=90)
        assert s.pool().properties["nodeTaints"] == ["sku=gpu:NoSchedule"], "AKS would put a startup taint back"
        node = Key("", (await s.get(name)).status.node_name)
        assert {"cni.example.com/agent", "sku"} <= {t.key for t in (await s.client.get(NODES, node)).spec.taints}
        await s.client.patch(NODES, node, {"spec": {"taints": [lasting]}})
        await s.settled(name)
        assert [t.key for t in (await s.client.get(NODES, node)).spec.taints] == ["sku"]


async def test_a_machine_lives_the_same_life(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        body = {
            "metadata": {"name": name, "labels": {"kaito.sh/workspace": "phi"}},
            "spec": {
                "requirements": [
                    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
                ]
            },
        }
        await s.client.create(MACHINES, body)

        async def ready() -> bool:
            machine = await s.client.get(MACHINES, Key("", name))
            found = find_condition(machine.status.conditions, "Ready")
            return found is not None and found.status == "True"

        await eventually(ready, timeout=90)
        await s.client.delete(MACHINES, Key("", name))

        async def gone() -> bool:
            return not await s.client.list(MACHINES)

        await eventually(gone, timeout=90)
        assert s.arm.wire.cloud.pools == {}


async def test_equal_claims_of_a_workspace_share_one_pool_and_one_leaves_by_name(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    names = [f"{name}{n}" for n in range(5)]
    async with stage(apiserver, tmp_path) as s, all_known_at_once(s, names):
        await s.ready(*names)
        (pool,) = s.arm.wire.cloud.pools.values()
        assert len(pool.machines) == 5
        assert len(s.calls("put")) == 1, "claims that come together share a PUT"
        providers = {(await s.get(each)).status.provider_id for each in names}
        assert len(providers) == 5
        await s.client.delete(NODECLAIMS, Key("", names[2]))
        await eventually(lambda: s.is_gone(names[2]), timeout=90)
        left = [(await s.get(each)).status.provider_id for each in names if each != names[2]]
        assert {m.provider_id for m in s.pool().machines.values()} == set(left)
        assert [c.body["machineNames"] for c in s.calls("post")] != []
        await s.ready(*[each for each in names if each != names[2]])
        for each in names:
            await s.client.delete(NODECLAIMS, Key("", each))
        await eventually(lambda: not s.arm.wire.cloud.pools, timeout=90)


@asynccontextmanager
async def all_known_at_once(s: Stage, names: list[str], *faults: Fault) -> AsyncIterator[None]:
    """A provisioner that finds all claims of one workspace with their pool chosen, and that pool not yet asked for."""
    s.arm.wire.faults.add(
        Fault("list", "answer", status=503, times=1000)
    )  # nothing is bought while nothing can be read
    for each in names:
        await s.claim(each, workspace="uid-1")
    async with s.provisioner() as first:
        await eventually(lambda: sum(c.finalized for c in first.observer.claims()) == len(names), timeout=90)
    assert s.calls("put") == []
    s.arm.wire.faults.clear()
    for fault in faults:
        s.arm.wire.faults.add(fault)
    async with s.provisioner():
        yield


async def test_partial_allocation_keeps_what_came(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    names = [f"{name}{n}" for n in range(5)]
    fault = Fault("put", "partial", machines=3, error=ALLOCATION)
    async with (
        stage(apiserver, tmp_path, timings=Timings(node=0.1, create=0.5)) as s,
        all_known_at_once(s, names, fault),
    ):

        def asked() -> list[int]:
            return [call.body["properties"]["count"] for call in s.calls("put")]

        async def split() -> bool:
            states = [await s.condition(each, "Launched") for each in names]
            done = [state for state in states if state[0] == "True"]
            failed = [state for state in states if state[1] == "InsufficientCapacity"]
            assert (len(done), len(failed)) == (3, 2), (states, asked())
            return True

        await eventually(split, timeout=90)
        assert asked() == [5], "no second PUT before the failure is waited out"


async def test_the_next_instance_type_is_tried_after_a_stock_out(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", "fail-operation", error=ALLOCATION))
        await s.claim(name, types=["Standard_NC6s_v3", "Standard_NC12s_v3"])
        await s.ready(name)
        (pool,) = s.arm.wire.cloud.pools.values()
        assert pool.properties["vmSize"] == "Standard_NC12s_v3"
        await s.labelled(name, "node.kubernetes.io/instance-type", "Standard_NC12s_v3")
        await s.said(name, "InsufficientCapacity", "Trying Standard_NC12s_v3")


async def test_quota_is_said_with_its_numbers(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner() as service:
        s.arm.wire.faults.add(Fault("put", "answer", times=100, status=400, body=QUOTA))
        await s.claim(name)
        await eventually(lambda: launched_reason(s, name, "QuotaExceeded"), timeout=90)
        status, _, message = await s.condition(name, "Launched")
        assert status == "False", "a quota of zero does not heal by itself"
        assert "requested 6, remaining 0" in message
        assert "Ask Azure for more quota" in message
        assert len(s.calls("put")) == 1
        assert service.metrics.failures.labels("QuotaExceeded")._value.get() == 1
        await s.said(name, "QuotaExceeded", "requested 6, remaining 0")
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)


async def launched_reason(s: Stage, name: str, reason: str) -> bool:
    return (await s.condition(name, "Launched"))[1] == reason


async def test_a_delete_during_the_create_goes_out_at_once(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path, timings=Timings(node=60, create=60)) as s, s.provisioner():
        await s.claim(name)
        await eventually(lambda: s.calls("put"), timeout=90)
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}
        assert {o.status for o in s.arm.wire.cloud.operations.values()} == {"Canceled", "Succeeded"}


async def test_a_strangers_pool_of_the_same_name_is_never_touched(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s:
        pool, _, _ = s.arm.wire.cloud.put(name, {"count": 0, "vmSize": "Standard_D2s_v5"}, None)
        async with s.provisioner():
            await s.claim(name)
            await eventually(lambda: launched_reason(s, name, "PoolNameTaken"), timeout=90)
            await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools[name] is pool
        assert s.calls("put") == s.calls("delete") == []


async def test_a_pool_deleted_in_the_portal_costs_the_claim(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner() as service:
        await s.claim(name)
        await s.ready(name)
        s.arm.wire.cloud.delete(next(iter(s.arm.wire.cloud.pools.values())), None)
        await eventually(lambda: s.is_gone(name), timeout=90)
        causes = ("vanished", "node deleted")  # whichever is seen first
        assert sum(service.metrics.replaced.labels(cause)._value.get() for cause in causes) == 1


async def test_half_a_list_costs_nothing(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    names = [f"{name}{n}" for n in range(4)]
    async with stage(apiserver, tmp_path, shared=False) as s, s.provisioner():
        for each in names:
            await s.claim(each)
        await s.ready(*names)
        before = len(s.calls("list"))
        s.arm.wire.faults.add(Fault("list", "half-list", times=10))
        await eventually(lambda: len(s.calls("list")) > before + 20, timeout=90)
        assert s.calls("delete") == []
        assert [await s.is_gone(each) for each in names] == [False] * 4


async def test_a_node_deleted_by_hand_costs_the_claim_and_the_machine(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        await s.client.delete(NODES, Key("", (await s.get(name)).status.node_name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}
        assert await s.client.list(NODES) == []


async def test_pods_are_evicted_before_the_machine_goes(
    apiserver: ApiServer, tmp_path: Path, name: str, namespace: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        node = (await s.get(name)).status.node_name
        pod = {
            "metadata": {"name": "busy", "namespace": namespace, "finalizers": ["test/hold"]},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0},
        }
        await s.client.create(PODS, pod)
        await s.client.delete(NODECLAIMS, Key("", name))

        async def evicted() -> bool:
            return (await s.client.get(PODS, Key(namespace, "busy"))).metadata.deleting

        await eventually(evicted, timeout=90)
        assert (await s.condition(name, "Drained"))[:2] == ("Unknown", "Draining")
        taints = (await s.client.get(NODES, Key("", node))).spec.taints
        assert "karpenter.sh/disrupted" in {t.key for t in taints}
        assert s.calls("delete") == []
        await s.client.patch(PODS, Key(namespace, "busy"), {"metadata": {"finalizers": []}})
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}


@pytest.mark.parametrize("when", ["after the PUT", "after the node", "during the delete"])
async def test_a_restart_changes_nothing(apiserver: ApiServer, tmp_path: Path, name: str, when: str) -> None:
    async with stage(apiserver, tmp_path, timings=Timings(node=0.3, create=0.6, delete=0.5)) as s:
        moment: dict[str, Callable[[], Any]] = {
            "after the PUT": lambda: s.calls("put"),
            "after the node": lambda: (
                next(iter(s.arm.wire.cloud.pools.values())).machines if s.arm.wire.cloud.pools else None
            ),
            "during the delete": lambda: s.calls("delete"),
        }
        async with s.provisioner():
            await s.claim(name)
            if when == "during the delete":
                await s.ready(name)
                await s.client.delete(NODECLAIMS, Key("", name))
            await eventually(moment[when], timeout=90)
        async with s.provisioner():
            if when == "during the delete":
                await eventually(lambda: s.is_gone(name), timeout=90)
                assert s.arm.wire.cloud.pools == {}
            else:
                await s.ready(name)
                assert len(s.arm.wire.cloud.pools) == 1
                assert len(s.calls("put")) == 1


async def test_claims_of_others_are_left_alone(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        body = {
            "metadata": {"name": name},
            "spec": {
                "nodeClassRef": {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"},
                "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["A"]}],
            },
        }
        await s.client.create(NODECLAIMS, body)
        marker = f"{name}m"
        await s.claim(marker)
        await s.ready(marker)
        claim = await s.get(name)
        assert claim.metadata.finalizers == []
        assert claim.status.conditions == []
