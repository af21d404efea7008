"""What a local cluster has left on this machine: asked after taking it down, and by tests."""

import os
from contextlib import suppress
from pathlib import Path

from kaito_local import netfilter, network
from kaito_local.nodes import cgroups, mounts


async def leftovers(state_dir: Path) -> list[str]:
    """Everything of a cluster that is still here, a line each: processes, mounts, interfaces, cgroups, rules."""
    return [
        *(f"process {text}" for text in _processes(state_dir)),
        *(f"mount {point}" for point in mounts.beneath(state_dir)),
        *(f"network interface {name}" for name in await network.links()),
        *(f"cgroup {folder}" for folder in cgroups.present()),
        *(f"rule {rule}" for rule in await netfilter.leftovers()),
    ]


def _processes(state_dir: Path) -> list[str]:
    """The processes that carry a path of the cluster's folder in their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = os.fsdecode((folder / "cmdline").read_bytes()).split("\0")
            if int(folder.name) != os.getpid() and any(f"{state_dir}/" in word for word in words):
                found.append(f"{folder.name} {words[0]}")
    return found
