"""kill -9 after each change in the life of a Machine with a pod on its node, then a restart: the pod goes first, all the same."""

import asyncio
from pathlib import Path

import pytest
from killed_process import FACTOR, changes, process
from provisioner_stage import Stage, stage

from kaito_api.conditions import is_true
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODES, PODS
from kaito_local.arm.cloud import Timings
from kaito_local.pytest_plugin import ApiServer
from kubecore.errors import NotFound
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NEEDED = (
    "PATCH /apis/karpenter.sh/v1alpha5/machines/whole",
    "PUT agentPools/whole",
    "PATCH /apis/karpenter.sh/v1alpha5/machines/whole/status",
    "PATCH /api/v1/nodes/",
    "/pods/whole/eviction",
    "DELETE agentPools/whole",
)
"""What no such life goes without."""


class Life:
    """What somebody wants of a Machine: that it becomes ready, takes a pod, and goes again."""

    def __init__(self, s: Stage, namespace: str, name: str) -> None:
        self._client = s.client
        self._key, self._pod = Key("", name), Key(namespace, name)

    async def begin(self) -> None:
        types = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
        metadata = {"name": self._key.name, "labels": {"kaito.sh/workspace": "phi"}}
        await self._client.create(MACHINES, {"metadata": metadata, "spec": {"requirements": [types]}})

    async def step(self) -> bool:
        """Ask for what comes next, if it is time for it; true when the Machine is gone."""
        try:
            machine = await self._client.get(MACHINES, self._key)
        except NotFound:
            return True
        settled = "topology.kubernetes.io/region" in machine.metadata.labels  # written after Ready
        if settled and is_true(machine.status.conditions, "Ready") and not machine.metadata.deleting:
            spec = {"containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0}
            metadata = {"name": self._pod.name, "namespace": self._pod.namespace}
            body = {"metadata": metadata, "spec": {**spec, "nodeName": machine.status.node_name}}
            await self._client.create(PODS, body)
            await self._client.delete(MACHINES, self._key)
        return False

    async def over(self, process: asyncio.subprocess.Process) -> bool:
        return process.returncode is not None or await self.step()


async def test_every_point_of_a_machines_life_with_a_pod_to_drain(
    apiserver: ApiServer, tmp_path: Path, namespace: str
) -> None:
    log = tmp_path / "log"
    timings = Timings(node=0.2, create=0.3, delete=0.2)
    async with fast_clock(FACTOR) as clock, stage(apiserver, tmp_path, clock=clock, timings=timings) as s:
        whole = Life(s, namespace, "whole")
        await whole.begin()
        async with process(s, apiserver, 0, log):
            await eventually(whole.step, timeout=90)
        points = changes(log)
        places = [next((n for n, point in enumerate(points) if change in point), -1) for change in NEEDED]
        assert min(places) >= 0, points
        assert places[-2] < places[-1], f"the pool went before the pod: {points}"
        survived = []
        for point in range(1, len(points) + 1):
            name = f"k{point}"
            life = Life(s, namespace, name)
            await life.begin()
            async with process(s, apiserver, point, log) as first:
                await eventually(lambda life=life, first=first: life.over(first), timeout=120)
                if first.returncode != -9:
                    survived.append(point)
            async with s.provisioner():
                await eventually(life.step, timeout=90)
                await eventually(lambda: is_empty(s, namespace), timeout=90)
            bought = [call for call in s.calls("put") if call.pool == name and call.status in (200, 201)]
            assert len(bought) == 1, f"killed after {points[point - 1]}: {len(bought)} PUTs"
        # Writes that come close together become one: a life may take fewer changes than the one that was counted.
        assert all(point > len(NEEDED) for point in survived), (survived, points)


async def is_empty(s: Stage, namespace: str) -> bool:
    """Whether nothing is left: no kubelet and no garbage collector runs here, so a pod goes by its eviction alone."""
    left = [*await s.client.list(NODES), *await s.client.list(PODS, namespace)]
    return not left and not s.arm.wire.cloud.pools
