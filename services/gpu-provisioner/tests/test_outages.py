"""Azure, the network, the token service or the clock misbehave: nothing is bought twice, nothing is lost."""

import uuid
from pathlib import Path

import pytest
from provisioner_stage import stage

from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.arm.bucket import TokenBucket, open_buckets
from kaito_local.arm.cloud import Timings
from kaito_local.arm.faults import Fault, flat
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BROKEN = flat("InternalServerError", "something went wrong")
SPOT = [
    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand", "spot"]},
]
ZONES = [
    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
    {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["eastus-2", "eastus-1"]},
]
NO_ROOM = {"code": "AllocationFailed", "message": "no room"}


@pytest.fixture
def name() -> str:
    return f"o{uuid.uuid4().hex[:9]}"


async def test_500s_for_ten_minutes_cost_nothing(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s:
        kept, late = f"{name}a", f"{name}b"
        async with s.provisioner():
            await s.claim(kept)
            await s.ready(kept)
            began = clock.monotonic()
            for route in ("list", "put", "get", "machines", "machine"):
                s.arm.wire.faults.add(Fault(route, "answer", times=10_000, status=500, body=BROKEN))
            await s.claim(late)
            await eventually(lambda: s.reason(late, "Launched", "CloudUnavailable"), timeout=90)
            await eventually(lambda: clock.monotonic() - began > 600, timeout=90)
            s.arm.wire.faults.clear()
            await s.ready(kept, late)
            assert s.calls("delete") == s.calls("post") == []
            assert len([c for c in s.calls("put") if c.status == 201]) == 2


async def test_a_put_whose_answer_is_lost_is_not_sent_again(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", "drop"))
        await s.claim(name)
        await s.ready(name)
        assert len(s.pool().machines) == 1
        statuses = sorted(c.status for c in s.calls("put"))
        assert statuses in ([201], [201, 412]), "the HTTP client may send it once more, under the same condition"


async def test_a_put_whose_answer_is_lost_is_not_repeated_while_the_cloud_lags(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """The LIST after the lost answer does not show the pool yet: the second PUT carries If-None-Match and is refused."""
    async with fast_clock(20) as clock, stage(apiserver, tmp_path, clock=clock, timings=Timings(node=1, create=2)) as s:
        s.arm.wire.faults.add(Fault("put", "drop"))
        s.arm.wire.faults.add(Fault("list", "empty-list", times=3))
        async with s.provisioner():
            await s.claim(name)
            await s.ready(name)
            bought, *refused = sorted(c.status for c in s.calls("put"))
            assert bought == 201
            assert set(refused) == {412}
            assert s.calls("delete") == []
            assert len(s.pool().machines) == 1


async def test_a_delete_whose_answer_is_lost_still_ends(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with fast_clock(20) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        s.arm.wire.faults.add(Fault("delete", "drop"))
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}


async def test_a_restart_into_half_a_list_costs_nothing(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    """Empty caches and a LIST without the pool: neither is the bound claim lost nor the deleting one let go."""
    kept, going = f"{name}a", f"{name}b"
    async with stage(apiserver, tmp_path, timings=Timings(delete=0.5)) as s:
        async with s.provisioner():
            await s.claim(kept)
            await s.claim(going)
            await s.ready(kept, going)
        await s.client.delete(NODECLAIMS, Key("", going))
        s.arm.wire.faults.add(Fault("list", "empty-list", times=40))
        async with s.provisioner():
            await eventually(lambda: s.calls("delete"), timeout=90)
            await eventually(lambda: s.is_gone(going), timeout=90)
            assert list(s.arm.wire.cloud.pools) == [kept]
            await s.ready(kept)
            assert len([c for c in s.calls("put") if c.status == 201]) == 2


async def test_tokens_that_expire_and_one_that_is_revoked(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        s.arm.wire.token_seconds = 1
        await s.claim(name)
        await s.ready(name)
        s.arm.wire.tokens.clear()
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}
        assert len(s.calls("token")) >= 2


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
async def test_a_clock_that_jumps_a_day_costs_nothing(
    apiserver: ApiServer, tmp_path: Path, name: str, jump: float
) -> None:
    async with fast_clock(2) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(name)
        await s.ready(name)
        node = (await s.get(name)).status.node_name
        await s.nodes.set_ready(node, ready=False)  # a moment of weakness, right when the clock jumps
        clock.jump_wall(jump)
        before = len(s.calls("list"))
        await eventually(lambda: len(s.calls("list")) > before + 5, timeout=90)
        await s.nodes.set_ready(node, ready=True)
        assert not (await s.get(name)).metadata.deleting
        assert s.calls("delete") == []


async def test_throttling_is_obeyed(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    """AKS's bucket is emptier than ours thinks, as when others use it: its Retry-After rules, and all come in the end."""
    buckets = {**open_buckets(), "put": TokenBucket(2, 1 / 60)}
    names = [f"{name}{n}" for n in range(5)]
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock, buckets=buckets) as s:
        began = clock.monotonic()
        async with s.provisioner():
            for each in names:
                await s.claim(each)
            await eventually(lambda: len([c for c in s.calls("put") if c.status == 201]) == 5, timeout=90)
            await s.ready(*names)
        assert clock.monotonic() - began >= 180, "three of five had to wait for a refill a minute"
        refused = [c for c in s.calls("put") if c.status == 429]
        assert 1 <= len(refused) <= 12


async def test_spot_is_tried_first_and_what_comes_instead_is_labelled_so(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", "fail-operation", error=NO_ROOM))
        await s.claim(name, requirements=SPOT)
        await s.ready(name)
        tried = [c.body["properties"].get("scaleSetPriority") for c in s.calls("put")]
        assert tried == ["Spot", None]
        claim = await s.get(name)
        node = await s.client.get(NODES, Key("", claim.status.node_name))
        await s.labelled(name, "karpenter.sh/capacity-type", "on-demand")
        assert node.metadata.labels["karpenter.sh/capacity-type"] == "on-demand"
        await s.said(name, "InsufficientCapacity", "Trying")


async def test_zones_are_tried_in_the_claims_order(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        s.arm.wire.faults.add(
            Fault("put", "fail-operation", error={"code": "ZonalAllocationFailed", "message": "full"})
        )
        await s.claim(name, requirements=ZONES)
        await s.ready(name)
        assert [c.body["properties"]["availabilityZones"] for c in s.calls("put")] == [["2"], ["1"]]
        await s.labelled(name, "topology.kubernetes.io/zone", "eastus-1")


@pytest.mark.parametrize("effect", ["stuck-operation", "failed-but-alive"])
async def test_contradictions_of_aks_end_in_a_ready_claim(
    apiserver: ApiServer, tmp_path: Path, name: str, effect: str
) -> None:
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", effect, error=NO_ROOM))
        await s.claim(name)
        await s.ready(name)
        before = len(s.calls("list"))
        await eventually(lambda: len(s.calls("list")) > before + 5, timeout=90)
        assert len(s.calls("put")) == 1
        assert s.calls("delete") == []


async def test_an_orphan_of_ours_goes_and_a_strangers_pool_stays(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with fast_clock(20) as clock, stage(apiserver, tmp_path, clock=clock) as s:
        cloud = s.arm.wire.cloud
        cloud.put("orphan", {"count": 1, "tags": {"kaito-managed-by": "gpu-provisioner"}}, None)
        cloud.put("system", {"count": 1}, None)
        async with s.provisioner():
            began = clock.monotonic()
            await eventually(lambda: "orphan" not in cloud.pools, timeout=90)
            assert clock.monotonic() - began >= 30, "it was seen for long enough first"
        assert "system" in cloud.pools
        assert {c.pool for c in s.calls("delete")} == {"orphan"}


async def test_a_machine_that_vanishes_from_a_shared_pool_costs_its_claim_only(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """As when a spot machine is evicted: AKS keeps the count, the machine and its Node are gone."""
    names = [f"{name}{n}" for n in range(3)]
    async with fast_clock(30) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        for each in names:
            await s.claim(each, workspace="uid-1")
        await s.ready(*names)
        lost = (await s.get(names[1])).status
        del s.pool().machines[lost.node_name]
        await s.tear_out(NODES, lost.node_name)
        await eventually(lambda: s.is_gone(names[1]), timeout=90)
        assert len(s.pool().machines) == 2
        await s.claim(f"{name}9", workspace="uid-1")
        await s.ready(names[0], names[2], f"{name}9")
        assert len(s.pool().machines) == 3


async def test_a_machine_without_a_node_and_without_a_claim_is_found_in_a_shared_pool(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """It booted for a claim that went meanwhile and never joined: only AKS knows it, and it costs money."""
    stays, goes = f"{name}a", f"{name}b"
    async with fast_clock(30) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(stays, workspace="uid-1")
        await s.ready(stays)
        s.arm.wire.faults.add(Fault("put", "no-node"))
        await s.claim(goes, workspace="uid-1")
        await eventually(lambda: len(s.pool().machines) == 2 and s.pool().state == "Succeeded", timeout=90)
        await s.client.delete(NODECLAIMS, Key("", goes))
        await eventually(lambda: len(s.pool().machines) == 1, timeout=90)
        await s.ready(stays)


async def test_a_machine_that_never_joins_is_replaced_after_fifteen_minutes(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """Its neighbour in the shared pool stays; the next claim of that shape gets a machine of its own, not the dead one."""
    stays, goes, comes = f"{name}a", f"{name}b", f"{name}c"
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner() as service:
        await s.claim(stays, workspace="uid-1")
        await s.ready(stays)
        s.arm.wire.faults.add(Fault("put", "no-node"))
        await s.claim(goes, workspace="uid-1")
        await eventually(lambda: len(s.pool().machines) == 2 and s.pool().state == "Succeeded", timeout=90)
        made, (dead,) = clock.monotonic(), set(s.pool().machines) - {(await s.get(stays)).status.node_name}
        hold = {"metadata": {"finalizers": ["karpenter.sh/termination", "test/hold"]}}
        await s.client.patch(NODECLAIMS, Key("", goes), hold)
        await eventually(lambda: s.reason(goes, "Registered", "RegistrationTimeout"), timeout=90)
        assert clock.monotonic() - made >= 840
        await s.claim(comes, workspace="uid-1")  # as the workspace-controller does when it sees the deletion
        await eventually(lambda: dead not in s.pool().machines, timeout=90)
        await s.client.patch(NODECLAIMS, Key("", goes), {"metadata": {"finalizers": []}})
        await s.ready(stays, comes)
        assert len(s.pool().machines) == 2
        await s.said(goes, "RegistrationTimeout", "15 minutes")
        assert service.metrics.replaced.labels("never joined")._value.get() == 1


async def test_a_lone_machine_that_never_joins_takes_its_pool_along(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", "no-node"))
        await s.claim(name)
        await eventually(lambda: s.is_gone(name), timeout=90)
        assert s.arm.wire.cloud.pools == {}
        assert len(s.calls("put")) == 1
