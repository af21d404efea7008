"""The program itself: two replicas, one leads, SIGTERM ends it in order and hands over."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest

from kaito_api.meta import Key
from kaito_api.resources import LEASES
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

CATALOG = Path(__file__).parents[1] / "catalog"
MANIFEST = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: NAME}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""


async def start(apiserver: Any, namespace: str) -> Process:
    arguments = ["--kubeconfig", str(apiserver.kubeconfig), "--lease-namespace", namespace, "--catalog", str(CATALOG)]
    arguments += ["--health-port", "0", "--metrics-port", "0"]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workspace_controller", *arguments, stderr=asyncio.subprocess.PIPE
    )


async def test_hand_over_at_sigterm(cluster: Any, apiserver: Any) -> None:
    async def holder() -> str:
        lease = await cluster.find(LEASES, "workspace-controller")
        return lease.spec.holder_identity or "" if lease is not None else ""

    first = await start(apiserver, cluster.namespace)
    try:
        leader = await eventually(holder, timeout=90)
        second = await start(apiserver, cluster.namespace)
        try:
            await cluster.apply(MANIFEST.replace("NAME", "one"))
            await cluster.claimed("one")
            first.send_signal(signal.SIGTERM)
            _, log = await asyncio.wait_for(first.communicate(), 60)
            assert first.returncode == 0, log.decode()
            assert b'"stopped"' in log

            async def handed_over() -> bool:
                return await holder() not in {"", leader}

            await eventually(handed_over, timeout=90)
            await cluster.apply(MANIFEST.replace("NAME", "two"))
            await cluster.claimed("two")
            assert len(await cluster.claims("one")) == 1
        finally:
            await stop(second)
    finally:
        await stop(first)
    assert (
        await cluster.client.get(LEASES, Key(cluster.namespace, "workspace-controller"))
    ).spec.lease_transitions == 1


async def stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)
