"""kill -9 after each change of create and delete, then a restart: the end is the same, and nothing is bought twice."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from provisioner_stage import Stage, stage

from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.arm.cloud import Timings
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "killable.py"


@asynccontextmanager
async def process(
    s: Stage, apiserver: ApiServer, kill_after: int, log: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    azure = s.settings.azure
    flags = [
        f"--subscription-id={azure.subscription_id}",
        f"--resource-group={azure.resource_group}",
        f"--cluster-name={azure.cluster_name}",
        f"--tenant-id={azure.tenant_id}",
        "--client-id=client",
        f"--federated-token-file={azure.federated_token_file}",
        f"--endpoint={azure.endpoint}",
        f"--authority={azure.authority}",
        f"--ca-file={azure.ca_file}",
        "--no-leader-elect",
        "--list-active-seconds=0.1",
        "--list-idle-seconds=0.3",
        "--health-port=0",
        "--metrics-port=0",
    ]
    env = {**os.environ, "KUBECONFIG": str(apiserver.kubeconfig), "KILL_AFTER": str(kill_after)}
    with log.open("ab") as out:
        running = await asyncio.create_subprocess_exec(
            sys.executable, str(SCRIPT), *flags, env=env, stdout=out, stderr=out
        )
        try:
            yield running
        finally:
            if running.returncode is None:
                running.terminate()
            await running.wait()


async def life(s: Stage, name: str) -> None:
    """Create, become Ready, delete, be gone."""
    await s.ready(name)
    await s.client.delete(NODECLAIMS, Key("", name))
    await eventually(lambda: s.is_gone(name), timeout=90)


async def test_every_point_of_a_life(apiserver: ApiServer, tmp_path: Path) -> None:
    timings = Timings(node=0.1, create=0.3, delete=0.2)
    log = tmp_path / "log"
    async with stage(apiserver, tmp_path, timings=timings) as s:
        await s.claim("whole")
        async with process(s, apiserver, 0, log):
            await life(s, "whole")
        points = [line for line in log.read_text().splitlines() if line.startswith("change ")]
        assert len(points) >= 10, points
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
                    survived.append(points[point - 1])
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
        # Status writes that come close together become one, so that a life may have a few points less than the first had.
        assert len(survived) <= 3, survived


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
        points = [line for line in log.read_text().splitlines() if line.startswith("change ")]
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


async def half_life(s: Stage, name: str, process: asyncio.subprocess.Process) -> None:
    """The same wishes as in life(), until they came true or the process is dead."""
    deleted = False
    while process.returncode is None and not await s.is_gone(name):
        if not deleted and (await s.condition(name, "Ready"))[0] == "True":
            await s.client.delete(NODECLAIMS, Key("", name))
            deleted = True
        await asyncio.sleep(0.05)
