"""What the full cluster needs from this machine, checked before anything is started."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kaito_local.command import run
from kaito_local.disk import Need, check_room
from kaito_local.errors import LocalError
from kaito_local.progress import say

CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback")

NODE_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
}
"""The programs that nodes need, with the Debian package of each."""

_INSTALL_TIMEOUT = 600.0
_APT_INSTALLED = (0.1, Path("/usr"))
_APT_FETCHED = (0.05, Path("/var/cache/apt"))
"""GiB of each package at most, with what it depends on, and where: containerd, the biggest, has 0.09 and 0.03."""
_CAP_SYS_RESOURCE = 24


def cni_folder() -> Path | None:
    """The folder of the CNI plugins, when it has those that we use."""
    return next((folder for folder in CNI_FOLDERS if all((folder / name).exists() for name in CNI_PLUGINS)), None)


def may_lower_oom_score() -> bool:
    """Whether this process has CAP_SYS_RESOURCE: without it a sandbox cannot get the OOM score that the kubelet asks for."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def missing_packages(programs: Mapping[str, str] = NODE_PACKAGES) -> list[str]:
    """The Debian packages of the programs that are not here."""
    packages = {package for program, package in programs.items() if not shutil.which(program)}
    if "containerd" in programs and cni_folder() is None:
        packages.add("containernetworking-plugins")
    return sorted(packages)


def disk_needs(programs: Mapping[str, str] = NODE_PACKAGES) -> list[Need]:
    """What installing the missing packages takes; nothing when none is missing."""
    count = len(missing_packages(programs))
    return [Need("Debian packages", gib * count, folder) for gib, folder in (_APT_INSTALLED, _APT_FETCHED) if count]


def obstacle(platform: str, euid: int, missing: Sequence[str], apt: bool) -> str | None:
    """Why a machine cannot run the full cluster, with what to do about it; None when it can. Packages that apt installs are none.

    `platform` as sys.platform, `missing` the Debian packages of what is not there.
    """
    if platform != "linux":
        return (
            "the full local cluster needs Linux (it runs kubelets). Elsewhere use a cluster that you have, by name:"
            " `make run CLUSTER=<context> REGISTRY=<ref>`; `make control-plane` and all other tests need no kubelet."
        )
    if euid != 0:
        return (
            "the full local cluster needs root (it runs kubelets, containers and bridges): use `sudo make ...`, or a"
            " cluster that you have, by name: `make run CLUSTER=<context> REGISTRY=<ref>`."
        )
    if missing and not apt:
        return f"these programs are missing; install the packages that your system has for: {', '.join(missing)}"
    return None


def obstacle_here(programs: Mapping[str, str] = NODE_PACKAGES) -> str | None:
    """`obstacle` of this machine."""
    apt = shutil.which("apt-get") is not None
    return obstacle(sys.platform, os.geteuid(), missing_packages(programs), apt)


def check(programs: Mapping[str, str] = NODE_PACKAGES) -> None:
    """Raises LocalError, with everything that a person has to do, when this machine cannot run the full cluster."""
    if reason := obstacle_here(programs):
        raise LocalError(reason)


async def prepare(programs: Mapping[str, str] = NODE_PACKAGES) -> None:
    """Installs what is missing where apt can, or raises LocalError with everything that a person has to do."""
    check(programs)
    if missing := missing_packages(programs):
        check_room(disk_needs(programs))
        await _install(missing)
    if still := missing_packages(programs):
        raise LocalError(f"apt-get installed them, yet these are still not found: {', '.join(still)}")


async def _install(packages: Sequence[str]) -> None:
    say(f"  installing Debian packages: {' '.join(packages)}")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    await run("apt-get", "update", "-q", timeout=_INSTALL_TIMEOUT, env=environment)
    install = ("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)
    await run(*install, timeout=_INSTALL_TIMEOUT, env=environment)
