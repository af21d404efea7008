"""A Pod's crash to its Workspace's condition: how long, p50 and p99 over 200 crashes?

    uv run --no-sync python benchmarks/reaction.py [--crashes 200] [--workspaces 20] [--kubeconfig FILE]

Measured from the moment at which kubelet's stand-in sends the pod's status to the moment at which a watch shows the
condition InferenceReady False with the crash's reason; the crashes go round the Workspaces. Goal: p99 below 1 s.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop
from _control_plane import own_control_plane
from _controller_process import controller_process
from _provisioner_standin import standin
from _workspaces import CATALOG, workspace_body

from kaito_api import labels
from kaito_api.conditions import find_condition
from kaito_api.core import StatefulSet
from kaito_api.meta import Key
from kaito_api.resources import NAMESPACES, PODS, STATEFULSETS, WORKSPACES
from kaito_api.workspace import Workspace
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.informer import Event, Informer
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport

METRICS_PORT = 18081
STAMP = "2026-01-01T00:00:00Z"


class Kubelet:
    """Plays the StatefulSet controller and kubelet for the Workspaces of one namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self.changed: dict[str, asyncio.Event] = {}
        self.workspaces = Informer(client, WORKSPACES, namespace=namespace)
        self.workspaces.add_handler(self._on_workspace)

    def _on_workspace(self, event: Event[Workspace]) -> None:
        self.changed.setdefault(event.key.name, asyncio.Event()).set()

    async def until(self, name: str, status: str, reason: str = "") -> float:
        """Wait until InferenceReady has that status and reason; return when that was seen."""
        async with asyncio.timeout(30):
            while True:
                found = self.workspaces.get(Key(self._namespace, name))
                condition = find_condition(found.status.conditions, "InferenceReady") if found else None
                if condition and condition.status == status and condition.reason.startswith(reason):
                    return time.perf_counter()
                self.changed.setdefault(name, asyncio.Event()).clear()
                await self.changed[name].wait()

    async def start(self, name: str) -> None:
        """Run pod 0 of the Workspace's StatefulSet."""
        key = Key(self._namespace, name)
        stateful: StatefulSet = await eventually(lambda: self._find(key), timeout=60)
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": stateful.metadata.uid}
        metadata = {"name": f"{name}-0", "namespace": self._namespace, "labels": {labels.WORKSPACE: name}}
        metadata |= {"ownerReferences": [{**owner, "controller": True}]}
        spec = {"nodeName": "anywhere", "containers": [{"name": "model-server", "image": "server"}]}
        await self._client.create(PODS, {"metadata": metadata, "spec": spec})
        await self.report(name, running())
        counts = {"observedGeneration": stateful.metadata.generation, "replicas": 1, "readyReplicas": 1}
        counts |= {"updatedReplicas": 1, "currentRevision": "one", "updateRevision": "one"}
        await self._client.patch(STATEFULSETS, key, {"status": counts}, subresource="status")

    async def report(self, name: str, status: dict[str, Any]) -> None:
        """Send the pod's status."""
        await self._client.patch(PODS, Key(self._namespace, f"{name}-0"), {"status": status}, subresource="status")

    async def _find(self, key: Key) -> StatefulSet | None:
        found = await self._client.list(STATEFULSETS, key.namespace, field_selector=f"metadata.name={key.name}")
        return found[0] if found else None


def running() -> dict[str, Any]:
    """Return the status of a pod that serves."""
    return _status("True", {"running": {"startedAt": STAMP}}, ready=True)


def crashed() -> dict[str, Any]:
    """Return the status of a pod whose server ran out of memory."""
    return _status("False", {"terminated": {"exitCode": 71, "reason": "Error"}}, ready=False)


def _status(condition: str, state: dict[str, Any], *, ready: bool) -> dict[str, Any]:
    container = {"name": "model-server", "ready": ready, "restartCount": 0, "image": "s", "imageID": "", "state": state}
    conditions = [{"type": "Ready", "status": condition, "lastTransitionTime": STAMP}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crashes", type=int, default=200)
    parser.add_argument("--workspaces", type=int, default=20)
    parser.add_argument("--kubeconfig", type=Path)
    options = parser.parse_args()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kaito-bench-")))
        kubeconfig = options.kubeconfig or await own_control_plane(stack, folder / "control-plane")
        link = await stack.enter_async_context(Transport(load_config(str(kubeconfig)), user_agent="bench"))
        await stack.enter_async_context(standin(kubeconfig))
        log = folder / "controller.log"
        await stack.enter_async_context(controller_process(kubeconfig, METRICS_PORT, log, "--catalog", str(CATALOG)))
        report(await crashes(Client(link), options.workspaces, options.crashes), options.workspaces)


async def crashes(client: Client, count: int, number: int) -> list[float]:
    """Let pods crash one after another and return the seconds until each condition."""
    await client.create(NAMESPACES, {"metadata": {"name": "reaction"}})
    kubelet = Kubelet(client, "reaction")
    names = [f"ws-{i}" for i in range(count)]
    times: list[float] = []
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(kubelet.workspaces.run())
        for name in names:
            await client.create(WORKSPACES, workspace_body(name, "reaction"))
        for name in names:
            await kubelet.start(name)
            await kubelet.until(name, "True")
        for i in range(number):
            name = names[i % count]
            started = time.perf_counter()
            await kubelet.report(name, crashed())
            times.append(await kubelet.until(name, "False", "OutOfMemory") - started)
            await kubelet.report(name, running())
            await kubelet.until(name, "True")
        watching.cancel()
    return sorted(times)


def report(times: list[float], workspaces: int) -> None:
    """Print the row for the table."""
    p50, p99 = (1000 * times[min(len(times) - 1, int(len(times) * q))] for q in (0.5, 0.99))
    print(
        f"| pod crash to condition, {len(times)} crashes over {workspaces} Workspaces | p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
        f"max {1000 * times[-1]:.0f} ms | goal p99 < 1000 ms | | {'met' if p99 < 1000 else 'missed'}; "
        "from the pod's status patch to the watch of the Workspace |"
    )


if __name__ == "__main__":
    uvloop.run(main())
