"""`kaito-local arm`: the AKS stand-in in the foreground; each machine of its pools is a real kubelet on this machine."""

import argparse
import asyncio
import json
import signal
from pathlib import Path

import msgspec

from kaito_local.arm.cloud import Cloud, Identity, Timings
from kaito_local.arm.server import serve as serve_arm
from kaito_local.cluster import Cluster
from kaito_local.errors import LocalError
from kaito_local.locations import state_root
from kaito_local.nodes.backends import KubeletNodes
from kaito_local.progress import say

PORT = 7443
SAVE_SECONDS = 1.0


class Endpoint(msgspec.Struct, frozen=True):
    """Where a client finds the stand-in, and what it must trust."""

    url: str
    certificate: Path
    identity: Identity


def endpoint(host_ip: str) -> Endpoint:
    """The local cluster's stand-in, running or not."""
    return Endpoint(f"https://{host_ip}:{PORT}", folder() / "arm.pem", Identity())


def folder() -> Path:
    """Its certificate and its memory."""
    return state_root() / "arm"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command of this module."""
    parser = subparsers.add_parser("arm", help="play Azure Resource Manager for the local cluster's agent pools")
    parser.set_defaults(command=serve)


async def serve(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT. Pools outlive the process, since their kubelets do."""
    cluster = Cluster()
    if not cluster.kubeconfig.exists():
        raise LocalError("there is no local cluster: `make cluster` starts one")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    memory = folder() / "pools.json"
    backend = KubeletNodes(cluster.nodes)
    timings = Timings(put_answer=0.2, node=0.5, create=1.0, delete=0.5)
    async with serve_arm(folder(), backend, timings=timings, host=cluster.host_ip, port=PORT) as arm:
        if memory.exists():
            arm.wire.cloud.restore(json.loads(memory.read_text()))
        say(f"the AKS stand-in answers at https://{cluster.host_ip}:{PORT}")
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(_save(arm.wire.cloud, memory))
            await stop.wait()
            saving.cancel()
    return 0


async def _save(cloud: Cloud, memory: Path) -> None:
    """Keeps the file in step with the pools; state that nobody announces is looked at once a second."""
    written = ""
    while True:
        text = json.dumps(cloud.snapshot())
        if text != written:
            # By renaming: whoever reads it, the next process of this stand-in among them, never finds half of it.
            fresh = memory.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(memory)
            written = text
        await asyncio.sleep(SAVE_SECONDS)
