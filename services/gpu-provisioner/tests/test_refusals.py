"""Azure refuses, is stuck or shows a part: calls wait their time, claims learn why, and nothing is believed too soon."""

import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from provisioner_stage import Stage, stage

from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, NODES
from kaito_local.arm.faults import Fault, Route, flat, nested
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

THROTTLED: dict[str, Any] = {"status": 429, "body": flat("Throttled", "slow down"), "headers": {"Retry-After": "60"}}
DENIED: dict[str, Any] = {"status": 403, "body": nested("AuthorizationFailed", "not yours")}
BAD: dict[str, Any] = {"status": 400, "body": flat("InvalidParameter", "the pool is locked")}
NO_ROOM: dict[str, Any] = {"status": 400, "body": flat("AllocationFailed", "no room")}
DOWN: dict[str, Any] = {"status": 500, "body": flat("InternalServerError", "something went wrong")}


@pytest.fixture
def name() -> str:
    return f"f{uuid.uuid4().hex[:9]}"


async def two_in_one_pool(s: Stage, name: str) -> tuple[str, str]:
    names = (f"{name}a", f"{name}b")
    for each in names:
        await s.claim(each, workspace="uid-1")
    await s.ready(*names)
    return names


@pytest.mark.parametrize(
    ("route", "answer", "reason", "pause", "says"),
    [
        ("delete", THROTTLED, "Throttled", 60.0, "tried again when the limit allows"),
        ("delete", BAD, "InvalidRequest", 300.0, "the pool is locked. AKS refuses to remove it as things stand"),
        ("post", DENIED, "Unauthorized", 60.0, "not yours. Grant the provisioner's identity the role"),
        ("machines", DENIED, "Unauthorized", 60.0, "not yours. Grant the provisioner's identity the role"),
    ],
    ids=["DELETE throttled", "DELETE refused", "deleteMachines denied", "the machines cannot be listed"],
)
async def test_a_removal_that_fails_waits_its_time_and_the_claim_says_why(
    apiserver: ApiServer,
    tmp_path: Path,
    name: str,
    route: Route,
    answer: dict[str, Any],
    reason: str,
    pause: float,
    says: str,
) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner() as service:
        if route == "delete":
            leaver = name
            await s.claim(name)
            await s.ready(name)
        else:
            leaver, _ = await two_in_one_pool(s, name)
        s.arm.wire.faults.add(Fault(route, "answer", times=1000, **answer))
        before = len(s.calls(route))
        node = Key("", (await s.get(leaver)).status.node_name)
        await s.client.delete(NODECLAIMS, Key("", leaver))
        await eventually(lambda: s.reason(leaver, "InstanceTerminating", reason), timeout=90)
        # While the machine stays, nothing new comes to it.
        assert "karpenter.sh/disrupted" in {taint.key for taint in (await s.client.get(NODES, node)).spec.taints}
        assert says in (await s.condition(leaver, "InstanceTerminating"))[2]
        await eventually(lambda: s.event(leaver, reason), timeout=90)
        s.arm.wire.faults.clear()
        await eventually(lambda: s.is_gone(leaver), timeout=90)
        calls = s.calls(route)[before:]
        refused = sum(call.status == answer["status"] for call in calls)
        assert [call.status for call in calls[:refused]] == [answer["status"]] * refused
        assert all(later.at - earlier.at >= pause for earlier, later in pairwise(calls[: refused + 1]))
        assert service.metrics.failures.labels(reason)._value.get() == refused > 0


async def test_a_machine_claim_has_no_such_condition_and_gets_the_event(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        size = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
        metadata = {"name": name, "labels": {"kaito.sh/workspace": "phi"}}
        await s.client.create(MACHINES, {"metadata": metadata, "spec": {"requirements": [size]}})
        await eventually(lambda: s.arm.wire.cloud.pools and s.pool().state == "Succeeded", timeout=90)
        s.arm.wire.faults.add(Fault("delete", "answer", **THROTTLED))
        await s.client.delete(MACHINES, Key("", name))
        assert "slow down. AKS limits" in await eventually(lambda: s.event(name, "Throttled"), timeout=90)

        async def gone() -> bool:
            return not await s.client.list(MACHINES)

        await eventually(gone, timeout=90)
        assert s.arm.wire.cloud.pools == {}


async def test_deletes_beyond_the_limit_of_aks_take_turns(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    names = [f"{name}{n}" for n in range(3)]
    limits = {"call_burst": 2.0, "calls_per_second": 1 / 60}
    async with fast_clock(20) as clock, stage(apiserver, tmp_path, clock=clock, **limits) as s:
        async with s.provisioner():
            for each in names:
                await s.claim(each)
            await s.ready(*names)
        for each in names:
            await s.client.delete(NODECLAIMS, Key("", each))
        async with s.provisioner() as service:  # it finds all three at once
            for each in names:
                await eventually(lambda each=each: s.is_gone(each), timeout=90)
            assert service.metrics.deferred.labels("delete")._value.get() >= 1
        at = [c.at for c in s.calls("delete")]
        assert len(at) == 3
        assert at[2] - at[0] >= 55


async def test_a_node_is_waited_for_from_the_machines_own_beginning(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """Its claim has waited 15 minutes for room in a pool that was well all the while: the new machine still gets its time."""
    first, late = f"{name}a", f"{name}b"
    async with fast_clock(120) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        await s.claim(first, workspace="uid-1")
        await s.ready(first)
        s.arm.wire.faults.add(Fault("put", "answer", times=6, **NO_ROOM))
        s.arm.wire.faults.add(Fault("put", "no-node"))
        began = clock.monotonic()
        await s.claim(late, workspace="uid-1")
        await eventually(lambda: len(s.pool().machines) == 2, timeout=90)
        made = clock.monotonic()
        assert made - began > 900
        await eventually(lambda: clock.monotonic() - made > 300, timeout=90)
        assert len(s.pool().machines) == 2
        assert not (await s.get(late)).metadata.deleting


@pytest.mark.parametrize(("shared", "workspace"), [(True, ""), (False, "uid-1")], ids=["by hand", "pool per claim"])
async def test_a_claim_that_was_refused_may_come_again_under_its_name(
    apiserver: ApiServer, tmp_path: Path, name: str, shared: bool, workspace: str
) -> None:
    """As the message says: correct the claim, then create it anew. An hour's back-off was the old one's."""
    async with stage(apiserver, tmp_path, shared=shared) as s, s.provisioner():
        s.arm.wire.faults.add(Fault("put", "answer", **BAD))
        await s.claim(name, workspace=workspace)
        await eventually(lambda: s.reason(name, "Launched", "InvalidRequest"), timeout=90)
        await s.client.delete(NODECLAIMS, Key("", name))
        await eventually(lambda: s.is_gone(name), timeout=90)
        await s.claim(name, workspace=workspace)
        await s.ready(name)


async def test_a_pool_that_stays_creating_is_made_anew(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with fast_clock(200) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner() as service:
        told: set[str] = set()  # the condition stands for a minute only, which is a third of a second here
        service.observer.node_claims.add_handler(lambda e: told.update(c.reason for c in e.obj.status.conditions))
        s.arm.wire.faults.add(Fault("put", "stuck-pool"))
        await s.claim(name)
        await eventually(lambda: "OperationStuck" in told, timeout=90)
        clock.factor = 20  # the new machine's Node has to come within 15 minutes
        await s.said(name, "OperationStuck", "(Creating) for more than 30 minutes")
        await s.ready(name)
        bought, again = (c.at for c in s.calls("put"))
        (deleted,) = (c.at for c in s.calls("delete"))
        assert deleted - bought >= 1790
        assert again - deleted >= 55, "not at once: the claim's owner may want to look"
        assert service.metrics.failures.labels("OperationStuck")._value.get() == 1


async def test_machines_that_a_list_leaves_out_are_not_gone(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    """Neither is the claim whose Node is away for a while replaced, nor the leaving claim let go with its machine running."""
    async with fast_clock(30) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner():
        kept, goes = await two_in_one_pool(s, name)
        node, leaver = [(await s.get(each)).status.node_name for each in (kept, goes)]
        s.arm.wire.faults.add(Fault("machines", "empty-list", times=100_000))
        await s.client.delete(NODECLAIMS, Key("", goes))
        await s.tear_out(NODES, node)
        began = clock.monotonic()
        await eventually(lambda: clock.monotonic() - began > 120, timeout=90)
        await eventually(lambda: len(s.calls("machine")) >= 2, timeout=90)  # each is asked for singly
        assert not await s.is_gone(goes)
        assert not (await s.get(kept)).metadata.deleting
        assert {node, leaver} <= set(s.pool().machines)
        s.arm.wire.faults.clear()
        await eventually(lambda: s.is_gone(goes), timeout=90)
        assert set(s.pool().machines) == {node}
        assert not (await s.get(kept)).metadata.deleting


async def test_pending_claims_are_counted_while_azure_is_away(apiserver: ApiServer, tmp_path: Path, name: str) -> None:
    async with stage(apiserver, tmp_path) as s:
        s.arm.wire.faults.add(Fault("list", "answer", times=10_000, **DOWN))
        async with s.provisioner() as service:
            await s.claim(name)
            await eventually(lambda: s.reason(name, "Launched", "CloudUnavailable"), timeout=90)
            await eventually(lambda: service.metrics.pending._value.get() == 1, timeout=90)
            s.arm.wire.faults.clear()
            await s.ready(name)
            await eventually(lambda: service.metrics.pending._value.get() == 0, timeout=90)
