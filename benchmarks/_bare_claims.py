"""The floor of the provisioner's latencies: the fewest writes to the apiserver that a claim's life takes, and nothing else.

    python benchmarks/_bare_claims.py KUBECONFIG

Nothing but aiohttp, woken by the same watches as the provisioner, as many writes at once as it has workers for claims, bodies
ready-made. A new claim gets its finalizer and annotations in one patch, after which a PUT could be sent; a Node that became
Ready gets its claim's status in one patch; before a DELETE nothing has to stand. Told what to do by lines on its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
import yaml
from _bare_client import MERGE

from gpu_provisioner.claims.view import AGENT_POOL_ANNOTATION, LAUNCH_OPTION_ANNOTATION
from gpu_provisioner.settings import AzureSettings, Settings
from kaito_api import labels
from kaito_api.resources import NODECLAIMS, NODES

STAMP = "2026-01-01T00:00:00Z"
STEPS = ("Launched", "Registered", "Initialized", "Ready")
RESOURCES = {"cpu": "6", "memory": "112Gi", "pods": "110", "nvidia.com/gpu": "1"}
WORKERS = Settings(azure=AzureSettings(subscription_id="", resource_group="", cluster_name="")).claim_workers


class Seen(msgspec.Struct, frozen=True):
    """Moments (the machine's monotonic clock, seconds) by claim: the first patch was answered, the deletion was seen."""

    bought: dict[str, float]
    deleted: dict[str, float]


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str


class _Status(msgspec.Struct, frozen=True):
    conditions: list[_Condition] = []


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    resource_version: str = ""
    deletion_timestamp: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta
    status: _Status | str = _Status()
    """A string in what a watch says of an error."""

    @property
    def ready(self) -> bool:
        conditions = [] if isinstance(self.status, str) else self.status.conditions
        return any(c.type == "Ready" and c.status == "True" for c in conditions)


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: _Object


class _List(msgspec.Struct, frozen=True):
    metadata: _Meta


class BareClaims:
    """The benchmark's end of the pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tell(self, command: str) -> Seen:
        """Sends a command, waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        return msgspec.json.decode(await self._process.stdout.readline(), type=Seen)


@asynccontextmanager
async def bare_claims(kubeconfig: Path) -> AsyncIterator[BareClaims]:
    """Run it while the block lasts."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, __file__, str(kubeconfig))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 24)
    assert process.stdout is not None
    try:
        if await process.stdout.readline() != b"ready\n":
            raise RuntimeError("the bare client did not start")
        yield BareClaims(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Floor:
    """Watches, and sends what has to be sent."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server
        self._writes: asyncio.Queue[tuple[str, bytes, str]] = asyncio.Queue()
        self._told: set[str] = set()
        self.bought: dict[str, float] = {}
        self.deleted: dict[str, float] = {}

    async def version(self, path: str) -> str:
        """Where a watch of this collection begins."""
        async with self._session.get(f"{self._server}{path}?limit=1") as answer:
            return msgspec.json.decode(await answer.read(), type=_List).metadata.resource_version

    async def watch(self, path: str, version: str) -> None:
        """Takes in every change. An apiserver ends the watches of a definition that it has only just installed."""
        take = self._claim if path == NODECLAIMS.path() else self._node
        decode = msgspec.json.Decoder(_Event).decode
        while True:
            async with self._session.get(f"{self._server}{path}?watch=1&resourceVersion={version}") as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    event = decode(line)
                    if event.type == "ERROR":
                        raise RuntimeError(f"{path}: {line[:300]!r}")
                    version = event.object.metadata.resource_version
                    take(event)

    async def work(self) -> None:
        """One writer."""
        while True:
            path, body, name = await self._writes.get()
            headers = {"Content-Type": MERGE}
            async with self._session.patch(self._server + path, data=body, headers=headers) as answer:
                content = await answer.read()
                if answer.status >= 300:
                    raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")
            if name:
                self.bought[name] = time.monotonic()

    def let_go(self) -> None:
        """Takes the finalizers off."""
        for name in self.deleted:
            self._send(NODECLAIMS.path(name=name), {"metadata": {"finalizers": []}})

    def _claim(self, event: _Event) -> None:
        meta = event.object.metadata
        if event.type == "ADDED":
            first = {
                "resourceVersion": meta.resource_version,
                "finalizers": [labels.KARPENTER_FINALIZER],
                "annotations": {
                    AGENT_POOL_ANNOTATION: meta.name,
                    LAUNCH_OPTION_ANNOTATION: "Standard_NC6s_v3/-/on-demand",
                },
            }
            self._send(NODECLAIMS.path(name=meta.name), {"metadata": first}, meta.name)
        elif event.type == "MODIFIED" and meta.deletion_timestamp:
            self.deleted.setdefault(meta.name, time.monotonic())

    def _node(self, event: _Event) -> None:
        name = event.object.metadata.name
        if event.type == "MODIFIED" and event.object.ready and name not in self._told:
            self._told.add(name)
            conditions = [
                {"type": step, "status": "True", "reason": step, "message": "", "lastTransitionTime": STAMP}
                for step in STEPS
            ]
            whole = {"conditions": conditions, "nodeName": name, "providerID": f"azure:///{name}"}
            status = {**whole, "capacity": RESOURCES, "allocatable": RESOURCES}
            self._send(NODECLAIMS.path(name=name) + "/status", {"status": status})

    def _send(self, path: str, body: dict[str, Any], name: str = "") -> None:
        self._writes.put_nowait((path, msgspec.json.encode(body), name))


async def main(kubeconfig: dict[str, Any]) -> None:
    """Serve until the standard input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority))
    headers = {"Authorization": f"Bearer {user['token']}"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=None), read_bufsize=1 << 22
    ) as session:
        floor = Floor(session, cluster["server"])
        versions = {path: await floor.version(path) for path in (NODECLAIMS.path(), NODES.path())}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(floor.watch(*each)) for each in versions.items()]
            tasks += [group.create_task(floor.work()) for _ in range(WORKERS)]
            print("ready", flush=True)
            while line := await lines.readline():
                if line.strip() == b"let go":
                    floor.let_go()
                print(msgspec.json.encode(Seen(floor.bought, floor.deleted)).decode(), flush=True)
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    uvloop.run(main(yaml.safe_load(Path(sys.argv[1]).read_text())))
