"""The gpu-provisioner under its own ServiceAccount and the chart's own roles: every right is used, none is missing.

A claim of each API lives from its creation to the end of its machine, over a drain with a pod that a budget protects; another
loses its machine behind the provisioner's back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from provisioner_stage import Stage, stage

from gpu_provisioner.claims.view import ClaimKind
from kaito_api.meta import Key
from kaito_api.resources import MACHINES, NODECLAIMS, NODES, PODS
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.events import EventRecorder
from kubecore.leader import LeaderConfig, LeaderElector
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock
from kubecore.transport import Transport

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

SERVICE = "gpu-provisioner"
RELEASE = "kaito-security"
PATIENCE = 120.0
BUDGET = {
    "apiVersion": "policy/v1",
    "kind": "PodDisruptionBudget",
    "metadata": {"name": "strict"},
    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "busy"}}},
}


async def busy_pod(apiserver: Any, client: Client, namespace: str, node: str) -> None:
    """A running pod on the node. No disruption controller runs here, so its budget allows none."""
    body = {
        "metadata": {"name": "busy", "namespace": namespace, "labels": {"app": "busy"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "terminationGracePeriodSeconds": 0},
    }
    await client.create(PODS, body)
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(PODS, Key(namespace, "busy"), {"status": running}, subresource="status")
    await apiserver.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(BUDGET))


async def replaced(s: Stage) -> None:
    """A claim whose machine somebody deletes in the cloud is deleted by the provisioner."""
    await s.claim("lost")
    await s.ready("lost")
    s.arm.wire.cloud.pools.clear()
    await eventually(lambda: s.is_gone("lost"), timeout=PATIENCE)


async def machine(s: Stage) -> None:
    """The same life through Karpenter's earlier API."""
    body = {
        "metadata": {
            "name": "older",
            "labels": {"kaito.sh/workspace": "phi", "karpenter.sh/provisioner-name": "default"},
        },
        "spec": {
            "machineTemplateRef": {"name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
            ],
            "resources": {"requests": {"storage": "80Gi"}},
        },
    }
    await s.client.create(MACHINES, body)

    async def launched() -> bool:
        return bool((await s.client.get(MACHINES, Key("", "older"))).status.provider_id)

    await eventually(launched, timeout=PATIENCE)
    s.arm.wire.cloud.pools.clear()

    async def gone() -> bool:
        return not [found for found in await s.client.list(MACHINES) if found.metadata.name == "older"]

    await eventually(gone, timeout=PATIENCE)


async def test_every_right_is_used_and_none_is_missing(
    apiserver: Any, render: Any, log_in: Any, release_of: Any, client: Client, namespace: str, tmp_path: Path
) -> None:
    objects = await render("--set", "gpu-provisioner.enabled=true", namespace=RELEASE)
    async with release_of(objects) as release, fast_clock(10) as clock:
        kubeconfig = await log_in(RELEASE, SERVICE)
        async with (
            stage(apiserver, tmp_path, clock=clock) as s,
            Transport(load_config(str(kubeconfig)), user_agent=SERVICE) as link,
            dataclasses.replace(s, client=Client(link)).provisioner({ClaimKind.NODE_CLAIM, ClaimKind.MACHINE}),
        ):
            await s.claim("first", terminationGracePeriod="60s")
            await s.ready("first")
            node = (await s.get("first")).status.node_name
            await repeated_event(Client(link), await client.get(NODES, Key("", node)))
            await busy_pod(apiserver, client, namespace, node)
            clock.resync()  # an eviction is asked for in the 60 s that begin with the apiserver's time stamp
            await client.delete(NODECLAIMS, Key("", "first"))
            await eventually(lambda: s.is_gone("first"), timeout=PATIENCE)
            await replaced(s)
            await machine(s)
            await elected(Client(link))
        record = await release.whole_record(SERVICE)
        assert not record.denied
        assert not {str(right) for right in record.used - release.granted(SERVICE)}


async def elected(client: Client) -> None:
    """Take the lease, renew it once, give it back. On the real clock: the stage's runs ten times as fast."""
    elector = LeaderElector(client, LeaderConfig(SERVICE, RELEASE))
    await elector.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(elector.hold(), 1.5)
    await elector.release()


async def repeated_event(client: Client, node: Any) -> None:
    """The same thing happens again after the window: the first Event counts it."""
    recorder = EventRecorder(client, SERVICE, window=0)
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(recorder.run())
        for _ in range(2):
            recorder.record(node, NODES, "Normal", "Twice", "It happened.")
            await recorder.flush(30)
        sending.cancel()
