"""kill -9 after each change of create, delete and garbage collection, then a restart: the same end, nothing bought twice."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from killed_process import changes, process
from provisioner_stage import Stage, stage

from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.arm.cloud import Timings
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

MOST_POINTS = 8
NEEDED = (
    "PATCH /apis/karpenter.sh/v1/nodeclaims/whole",
    "PUT agentPools/whole",
    "PATCH /apis/karpenter.sh/v1/nodeclaims/whole/status",
    "PATCH /api/v1/nodes/",
    "DELETE agentPools/whole",
)
"""What no life goes without; how many changes it takes beyond is the moment's: writes that come close together become one."""
Vanish = Callable[[Stage, NodeClaim], Awaitable[None]]


async def complete(s: Stage, name: str) -> bool:
    """Whether the claim is Ready, and what is written after that is written too."""
    ready = (await s.condition(name, "Ready"))[0] == "True"
    return ready and "topology.kubernetes.io/region" in (await s.get(name)).metadata.labels


async def life(s: Stage, name: str) -> None:
    """Create, become Ready, delete, be gone."""
    await eventually(lambda: complete(s, name), timeout=90)
    await s.client.delete(NODECLAIMS, Key("", name))
    await eventually(lambda: s.is_gone(name), timeout=90)


async def test_every_point_of_a_life(apiserver: ApiServer, tmp_path: Path) -> None:
    timings = Timings(node=0.5, create=0.7, delete=0.5)
    log = tmp_path / "log"
    async with stage(apiserver, tmp_path, timings=timings) as s:
        await s.claim("whole")
        async with process(s, apiserver, 0, log):
            await life(s, "whole")
        points = changes(log)
        changed = " ".join(points)
        assert all(change in changed for change in NEEDED), points
        survived = []
        for point in range(1, len(points) + 1):
            name = f"k{point}"
            await s.claim(name)
            async with process(s, apiserver, point, log) as first:
                # Up to the point where it dies, the first process lives the same life as the one above.
                async with asyncio.timeout(120), asyncio.TaskGroup() as group:
                    living = group.create_task(half_life(s, name, first))
                    dying = group.create_task(first.wait())
                    await asyncio.wait((living, dying), return_when=asyncio.FIRST_COMPLETED)
                    living.cancel()
                    dying.cancel()
                if first.returncode != -9:
                    survived.append(point)
            async with process(s, apiserver, 0, log):
                if not await s.is_gone(name):
                    if not (await s.get(name)).metadata.deleting:
                        await s.ready(name)
                        await s.client.delete(NODECLAIMS, Key("", name))
                    await eventually(lambda name=name: s.is_gone(name), timeout=90)
                await eventually(lambda: not s.arm.wire.cloud.pools, timeout=90)

                async def no_nodes() -> bool:
                    return not await s.client.list(NODES)

                await eventually(no_nodes, timeout=90)
            bought = [c for c in s.calls("put") if c.pool == name and c.status in (200, 201)]
            assert len(bought) == 1, f"killed after {points[point - 1]}: {len(bought)} PUTs"
        assert all(point > len(NEEDED) for point in survived), (survived, points)


async def test_every_point_of_leaving_a_shared_pool(apiserver: ApiServer, tmp_path: Path) -> None:
    """One of two claims goes by deleteMachines: its neighbour keeps its machine, whatever moment the process dies at."""
    timings = Timings(node=0.1, create=0.3, delete=0.2)
    log, stays = tmp_path / "log", "stays"
    async with stage(apiserver, tmp_path, timings=timings) as s:

        async def two(goes: str) -> None:
            await s.claim(goes, workspace="uid-1")
            async with process(s, apiserver, 0, tmp_path / "before"):
                await s.ready(stays, goes)

        async def leaves(goes: str) -> None:
            await eventually(lambda: s.is_gone(goes), timeout=90)
            await eventually(lambda: len(s.pool().machines) == 1, timeout=90)

        await s.claim(stays, workspace="uid-1")
        await two("whole")
        kept = (await s.get(stays)).status
        await s.client.delete(NODECLAIMS, Key("", "whole"))
        async with process(s, apiserver, 0, log):
            await leaves("whole")
        points = changes(log)
        assert any("deleteMachines" in point for point in points), points
        for point in range(1, len(points) + 1):
            goes = f"g{point}"
            await two(goes)
            asked = len(s.calls("post"))
            await s.client.delete(NODECLAIMS, Key("", goes))
            async with process(s, apiserver, point, log) as first:
                # A few points less than the first time are possible: status writes that come close together become one.
                await eventually(lambda first=first, goes=goes: dead_or_gone(s, first, goes), timeout=120)
            async with process(s, apiserver, 0, log):
                await leaves(goes)
                await s.ready(stays)
            assert (await s.get(stays)).status.provider_id == kept.provider_id, points[point - 1]
            assert list(s.pool().machines) == [kept.node_name], points[point - 1]
            assert len(s.calls("post")) - asked <= 2, "asked again at most once, by the process that came after"
        assert s.calls("delete") == []


async def dead_or_gone(s: Stage, process: asyncio.subprocess.Process, name: str) -> bool:
    return process.returncode is not None or await s.is_gone(name)


async def test_the_point_of_garbage_collection(apiserver: ApiServer, tmp_path: Path) -> None:
    """An orphan pool is deleted once it was seen for 30 s; killed right after the DELETE, no other follows."""
    log = tmp_path / "log"
    async with stage(apiserver, tmp_path, timings=Timings(delete=1.0)) as s:
        s.arm.wire.cloud.put("orphan", {"count": 1, "tags": {"kaito-managed-by": "gpu-provisioner"}}, None)
        stranger, _, _ = s.arm.wire.cloud.put("system", {"count": 1}, None)
        async with process(s, apiserver, 1, log) as first:
            await asyncio.wait_for(first.wait(), 120)
        assert first.returncode == -9
        assert "change 1: DELETE agentPools/orphan" in log.read_text()
        async with process(s, apiserver, 0, log):
            await eventually(lambda: "orphan" not in s.arm.wire.cloud.pools, timeout=90)
        assert s.arm.wire.cloud.pools == {"system": stranger}
        assert [c.pool for c in s.calls("delete")] == ["orphan"]


async def pool_deleted(s: Stage, claim: NodeClaim) -> None:
    """In the portal: AKS takes the pool's machines and their Nodes along."""
    cloud = s.arm.wire.cloud
    cloud.delete(cloud.pools[claim.metadata.annotations["kaito.sh/agent-pool"]], None)


async def machine_vanished(s: Stage, claim: NodeClaim) -> None:
    """As when a spot machine is evicted: AKS keeps the count, and the Node went without a farewell."""
    del s.arm.wire.cloud.pools[claim.metadata.annotations["kaito.sh/agent-pool"]].machines[claim.status.node_name]
    await s.tear_out(NODES, claim.status.node_name)


async def node_deleted(s: Stage, claim: NodeClaim) -> None:
    """By hand: the machine runs on."""
    await s.client.delete(NODES, Key("", claim.status.node_name))


@pytest.mark.parametrize(
    ("vanish", "workspace", "written", "least"),
    [
        (pool_deleted, "", "DELETE /apis/karpenter.sh/v1/nodeclaims/", 2),
        (machine_vanished, "uid-1", "DELETE /apis/karpenter.sh/v1/nodeclaims/", 1),
        (node_deleted, "uid-1", "deleteMachines agentPools/", 3),
    ],
)
async def test_every_point_of_collecting_a_claim_whose_machine_is_lost(
    apiserver: ApiServer, tmp_path: Path, vanish: Vanish, workspace: str, written: str, least: int
) -> None:
    """The claim goes and takes along what is left of its machine; its neighbours keep theirs; nothing is bought.

    `least`: how many changes come before the last one, which is the claim's end, at whatever moment anything happens.
    """
    log, names = tmp_path / "log", [f"v{n}" for n in range(MOST_POINTS + 1)]
    async with stage(apiserver, tmp_path) as s:
        for name in names:
            await s.claim(name, workspace=workspace)
        async with s.provisioner():
            for name in names:  # from then on there is nothing to do
                await s.settled(name)
        bought = len(s.calls("put"))

        async def collected(name: str, kept: dict[str, NodeClaim]) -> None:
            await eventually(lambda: s.is_gone(name), timeout=90)
            nodes = {claim.status.node_name for claim in kept.values()}
            await eventually(lambda: machines(s) == nodes, timeout=90)

            async def only_kept() -> bool:
                return {node.metadata.name for node in await s.client.list(NODES)} == nodes

            await eventually(only_kept, timeout=90)
            for each, claim in kept.items():
                assert (await s.get(each)).status == claim.status

        async def lose(name: str) -> dict[str, NodeClaim]:
            claims = {claim.metadata.name: claim for claim in await s.client.list(NODECLAIMS)}
            await vanish(s, claims.pop(name))
            return claims

        kept = await lose(names[0])
        async with process(s, apiserver, 0, log):
            await collected(names[0], kept)
        points = changes(log)
        assert any(written in point for point in points), points
        assert 2 <= len(points) <= MOST_POINTS, points
        survived = []
        for point, name in enumerate(names[1 : len(points) + 1], 1):
            kept = await lose(name)
            async with process(s, apiserver, point, log) as first:
                await eventually(lambda first=first, name=name: dead_or_gone(s, first, name), timeout=120)
            if first.returncode != -9:
                survived.append(point)
            async with process(s, apiserver, 0, log):
                await collected(name, kept)
        # What the end of a claim says about itself may come too late to be said, as may its node's cordon.
        assert all(point > least for point in survived), (survived, points)
        assert len(s.calls("put")) == bought


def machines(s: Stage) -> set[str]:
    return {name for pool in s.arm.wire.cloud.pools.values() for name in pool.machines}


async def half_life(s: Stage, name: str, process: asyncio.subprocess.Process) -> None:
    """The same wishes as in life(), until they came true or the process is dead."""
    deleted = False
    while process.returncode is None and not await s.is_gone(name):
        if not deleted and await complete(s, name):
            await s.client.delete(NODECLAIMS, Key("", name))
            deleted = True
        await asyncio.sleep(0.05)
