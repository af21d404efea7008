"""The cgroup of a node: a root for its kubelet in every hierarchy, because kubelets that share one delete each other's pods."""

import asyncio
import errno
import os
import signal
from contextlib import suppress
from pathlib import Path

from kaito_local.errors import LocalError

PREFIX = "kaito-node"
"""How the names of the nodes' cgroups begin."""

_ROOT = Path("/sys/fs/cgroup")
_REMOVE_TIMEOUT = 10.0


def _hierarchies() -> list[Path]:
    """The mounted hierarchies: one for cgroup v2, one a controller (and perhaps `unified`) for v1."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return sorted(folder for folder in _ROOT.iterdir() if folder.is_dir() and not folder.is_symlink())


def create(name: str) -> None:
    """Makes the cgroup NAME at the root of every hierarchy."""
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        if (hierarchy / "cgroup.subtree_control").exists():
            _enable_controllers(hierarchy)
        folder.mkdir(exist_ok=True)
        if (folder / "cgroup.subtree_control").exists():
            _enable_controllers(folder)
        for file in ("cpuset.cpus", "cpuset.mems"):
            # A new v1 cpuset is empty, and a process cannot be put into an empty one.
            if (hierarchy / file).exists() and not (folder / file).read_text().strip():
                (folder / file).write_text((hierarchy / file).read_text())


def _enable_controllers(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            # EBUSY/EINVAL: a controller with realtime processes or bound to v1 stays where it is; the rest is enough.
            if error.errno not in {errno.EBUSY, errno.EINVAL, errno.ENOENT}:
                raise


def present() -> list[Path]:
    """The nodes' cgroups that are there."""
    return [folder for hierarchy in _hierarchies() for folder in sorted(hierarchy.glob(f"{PREFIX}*"))]


def processes(name: str) -> set[int]:
    """The pids anywhere beneath the cgroup NAME."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for file in (hierarchy / name).rglob("cgroup.procs"):
            found.update(int(pid) for pid in file.read_text().split())
    return found


async def remove(name: str) -> None:
    """Kills what runs beneath the cgroup NAME and removes it with everything beneath, once the last process is reaped.

    Containers outlive a containerd and shims that were killed; whatever is in this cgroup is the node's.
    """
    for pid in processes(name):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = asyncio.get_running_loop().time() + _REMOVE_TIMEOUT
    while left := [folder for hierarchy in _hierarchies() if not _remove_tree(folder := hierarchy / name)]:
        if asyncio.get_running_loop().time() > deadline:
            raise LocalError(f"the cgroup {left[0]} is still in use by {sorted(processes(name)) or 'the kernel'}")
        await asyncio.sleep(0.1)  # an ended process leaves its cgroup a moment later, and nothing says when


def _remove_tree(folder: Path) -> bool:
    """Removes children first; false when one was busy."""
    if not folder.exists():
        return True
    busy = [child for child in folder.iterdir() if child.is_dir() and not _remove_tree(child)]
    if busy:
        return False
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True
