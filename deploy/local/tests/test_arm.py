"""The ARM stand-in against the real Azure SDK and the real credential code."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity.aio import WorkloadIdentityCredential
from azure.mgmt.containerservice.aio import ContainerServiceClient

from kaito_local.arm.bucket import TokenBucket, open_buckets
from kaito_local.arm.cloud import Timings
from kaito_local.arm.faults import Fault, flat, nested
from kaito_local.arm.nodes import MachineSpec, NoNodes, parse_taint
from kaito_local.arm.server import ArmStandIn, serve

POOL = {
    "properties": {
        "count": 1,
        "vmSize": "Standard_NC6s_v3",
        "nodeTaints": ["sku=gpu:NoSchedule"],
        "nodeLabels": {"a": "b"},
    }
}


class RecordedNodes(NoNodes):
    def __init__(self) -> None:
        self.up: dict[str, MachineSpec] = {}

    async def start(self, machine: MachineSpec) -> None:
        self.up[machine.node_name] = machine

    async def stop(self, node_name: str) -> None:
        del self.up[node_name]


@asynccontextmanager
async def sdk(arm: ArmStandIn, folder: Path) -> AsyncIterator[ContainerServiceClient]:
    assertion = folder / "assertion"
    assertion.write_text("signed-by-the-cluster")
    credential = WorkloadIdentityCredential(
        tenant_id=arm.identity.tenant,
        client_id="client",
        token_file_path=str(assertion),
        authority=arm.url.replace("127.0.0.1", "localhost"),
        disable_instance_discovery=True,
        connection_verify=str(arm.certificate),
    )
    async with (
        credential,
        ContainerServiceClient(
            credential,
            arm.identity.subscription,
            base_url=arm.url,
            connection_verify=str(arm.certificate),
            polling_interval=0.02,
            retry_total=0,
        ) as client,
    ):
        yield client


async def test_a_pool_is_made_listed_and_deleted(tmp_path: Path) -> None:
    nodes = RecordedNodes()
    async with serve(tmp_path, nodes) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster)
        poller = await client.agent_pools.begin_create_or_update(*where, "ws1", POOL)
        assert len(poller.polling_method()._initial_response.http_response.headers["Azure-AsyncOperation"]) > 2800
        pool = await poller.result()
        assert pool.provisioning_state == "Succeeded"
        assert "/resourcegroups/" in pool.id
        (machine,) = nodes.up.values()
        assert machine.labels["kubernetes.azure.com/agentpool"] == "ws1"
        assert machine.taints == ({"key": "sku", "value": "gpu", "effect": "NoSchedule"},)
        assert machine.provider_id.startswith("azure:///subscriptions/")
        assert [p.name async for p in client.agent_pools.list(*where)] == ["ws1"]
        await (await client.agent_pools.begin_delete(*where, "ws1")).result()
        assert nodes.up == {}
        with pytest.raises(ResourceNotFoundError) as absent:
            await client.agent_pools.get(*where, "ws1")
        assert absent.value.error.code == "NotFound"
        await (await client.agent_pools.begin_delete(*where, "ws1")).result()
        assert [call.status for call in arm.wire.journal if call.route == "delete"] == [202, 204]


async def test_scaling_up_adds_and_delete_machines_takes_the_named_one(tmp_path: Path) -> None:
    nodes = RecordedNodes()
    async with serve(tmp_path, nodes) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster, "ws1")
        await (await client.agent_pools.begin_create_or_update(*where, POOL)).result()
        (first,) = nodes.up
        await (await client.agent_pools.begin_create_or_update(*where, {"properties": {"count": 3}})).result()
        assert first in nodes.up
        assert len(nodes.up) == 3
        assert len([m async for m in client.machines.list(*where)]) == 3
        await (await client.agent_pools.begin_delete_machines(*where, {"machineNames": [first]})).result()
        assert first not in nodes.up
        assert (await client.agent_pools.get(*where)).count == 2


async def test_a_busy_pool_answers_conflict_and_a_delete_preempts_its_create(tmp_path: Path) -> None:
    async with (
        serve(tmp_path, RecordedNodes(), timings=Timings(node=5, create=10)) as arm,
        sdk(arm, tmp_path) as client,
    ):
        where = (arm.identity.resource_group, arm.identity.cluster, "ws1")
        create = await client.agent_pools.begin_create_or_update(*where, POOL)
        with pytest.raises(ResourceExistsError) as conflict:
            await client.agent_pools.begin_create_or_update(*where, POOL)
        assert conflict.value.error.code == "OperationNotAllowed"
        await (await client.agent_pools.begin_delete(*where)).result()
        with pytest.raises(HttpResponseError):
            await create.result()
        assert {o.status for o in arm.wire.cloud.operations.values()} == {"Canceled", "Succeeded"}


async def test_faults_are_applied_once_each(tmp_path: Path) -> None:
    quota = {"code": "QuotaExceeded", "message": "exceeding approved quota", "details": []}
    async with serve(tmp_path, RecordedNodes()) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster, "ws1")
        script = arm.wire.faults
        script.add(
            Fault("put", "answer", status=400, body=flat("ErrCode_InsufficientVCPUQuota", "left regional quota 0"))
        )
        script.add(Fault("put", "partial", machines=3, error=quota))
        with pytest.raises(HttpResponseError) as refused:
            await client.agent_pools.begin_create_or_update(*where, POOL)
        assert refused.value.error.code == "ErrCode_InsufficientVCPUQuota"
        with pytest.raises(HttpResponseError) as partial:
            await (await client.agent_pools.begin_create_or_update(*where, {"properties": {"count": 5}})).result()
        assert (partial.value.status_code, partial.value.error.code) == (200, "QuotaExceeded")
        assert len(arm.wire.cloud.pools["ws1"].machines) == 3
        assert (await client.agent_pools.get(*where)).provisioning_state == "Failed"
        script.add(Fault("get", "answer", status=403, body=nested("AuthorizationFailed", "no")))
        with pytest.raises(HttpResponseError) as denied:
            await client.agent_pools.get(*where)
        assert denied.value.error.code == "AuthorizationFailed"
        assert (await client.agent_pools.get(*where)).name == "ws1"


async def test_the_bucket_throttles_with_whole_seconds(tmp_path: Path) -> None:
    buckets = open_buckets() | {"put": TokenBucket(1, 1 / 60)}
    async with serve(tmp_path, RecordedNodes(), buckets=buckets) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster)
        await client.agent_pools.begin_create_or_update(*where, "ws1", POOL)
        with pytest.raises(HttpResponseError) as throttled:
            await client.agent_pools.begin_create_or_update(*where, "ws2", POOL, retry_total=0)
        assert throttled.value.status_code == 429
        assert throttled.value.response is not None
        assert 55 <= int(throttled.value.response.headers["Retry-After"]) <= 60


async def test_an_expired_token_is_answered_with_a_challenge(tmp_path: Path) -> None:
    async with serve(tmp_path, RecordedNodes()) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster)
        assert [p async for p in client.agent_pools.list(*where)] == []
        arm.wire.tokens.clear()
        with pytest.raises(HttpResponseError) as expired:
            await client.agent_pools.get(*where, "ws1")
        assert expired.value.status_code == 401


@pytest.mark.parametrize(
    ("text", "taint"),
    [
        ("sku=gpu:NoSchedule", {"key": "sku", "value": "gpu", "effect": "NoSchedule"}),
        ("sku=:NoExecute", {"key": "sku", "effect": "NoExecute"}),
    ],
)
def test_taints_are_read_as_aks_writes_them(text: str, taint: dict[str, str]) -> None:
    assert parse_taint(text) == taint


async def test_operations_in_flight_end_with_the_server(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(60),
        serve(tmp_path, RecordedNodes(), timings=Timings(create=600)) as arm,
        sdk(arm, tmp_path) as client,
    ):
        await client.agent_pools.begin_create_or_update(arm.identity.resource_group, arm.identity.cluster, "ws1", POOL)


async def test_machines_are_listed_whole_half_or_not_at_all_and_known_singly(tmp_path: Path) -> None:
    async with serve(tmp_path, NoNodes()) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster)
        pool = {"properties": {**POOL["properties"], "count": 3}}
        await (await client.agent_pools.begin_create_or_update(*where, "ws1", pool)).result()
        there = list(arm.wire.cloud.pools["ws1"].machines)
        arm.wire.faults.add(Fault("machines", "half-list"))
        arm.wire.faults.add(Fault("machines", "empty-list"))
        for expected in ([there[0], there[2]], [], there):
            assert [m.name async for m in client.machines.list(*where, "ws1")] == expected
        assert (await client.machines.get(*where, "ws1", there[1])).name == there[1]
        with pytest.raises(ResourceNotFoundError):
            await client.machines.get(*where, "ws1", "aks-other-vmss000000")


@pytest.mark.parametrize(("count", "state"), [(1, "Creating"), (2, "Scaling")])
async def test_a_pool_that_is_stuck_stays_so_until_it_is_deleted(tmp_path: Path, count: int, state: str) -> None:
    async with serve(tmp_path, NoNodes()) as arm, sdk(arm, tmp_path) as client:
        where = (arm.identity.resource_group, arm.identity.cluster)
        for machines in range(1, count):
            pool = {"properties": {**POOL["properties"], "count": machines}}
            await (await client.agent_pools.begin_create_or_update(*where, "ws1", pool)).result()
        arm.wire.faults.add(Fault("put", "stuck-pool"))
        pool = {"properties": {**POOL["properties"], "count": count}}
        await client.agent_pools.begin_create_or_update(*where, "ws1", pool, polling=False)
        for _ in range(3):
            await asyncio.sleep(0.1)
            assert (await client.agent_pools.get(*where, "ws1")).provisioning_state == state
        assert len(arm.wire.cloud.pools["ws1"].machines) == count - 1
        await (await client.agent_pools.begin_delete(*where, "ws1")).result()
        assert arm.wire.cloud.pools == {}
