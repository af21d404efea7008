"""Free disk: counted for each disk together, and looked at before apt or Go is asked for anything."""

import asyncio
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from kaito_local.binaries import COMPONENTS, disk_needs
from kaito_local.command import run
from kaito_local.disk import Disk, Need, disk_of, shortage
from kaito_local.errors import CommandError
from kaito_local.images.disk import image_needs
from kaito_local.locations import REPOSITORY

CACHE, SYSTEM = Path("/cache"), Path("/usr")
IMAGES, TOOLS, DEBIAN = Need("the images", 25, CACHE), Need("the Go programs", 8.6, CACHE), Need("Debian", 1.5, SYSTEM)


@pytest.mark.parametrize(
    ("needs", "free", "said"),
    [
        ([], {CACHE: 0}, []),
        ([IMAGES, TOOLS, DEBIAN], {CACHE: 34, SYSTEM: 2}, []),
        ([IMAGES, TOOLS], {CACHE: 33.25}, ["/cache has 33.2 GiB", "about 33.6 GiB", "images 25.0", "programs 8.6"]),
        ([IMAGES, DEBIAN], {CACHE: 30, SYSTEM: 1}, ["/usr has 1.0 GiB", "KAITO_CACHE"]),
        ([IMAGES, DEBIAN], {CACHE: 3, SYSTEM: 1}, ["/cache has 3.0 GiB", "/usr has 1.0 GiB"]),
    ],
)
def test_each_disk_must_take_all_that_lies_on_it(needs: list[Need], free: dict[Path, float], said: list[str]) -> None:
    disks = {folder: Disk(number, gib) for number, (folder, gib) in enumerate(free.items())}
    lacking = shortage(needs, disks.__getitem__)
    assert bool(lacking) == bool(said)
    assert [words for words in said if words not in lacking] == []
    assert ("/usr" in lacking) == any("/usr" in words for words in said)


@pytest.mark.parametrize(
    ("missing", "least", "most"),
    [([], 0, 0), (["workspace-controller"], 1, 3), (["engine-cpu"], 20, 30), (["engine-cpu", "tuner"], 21, 31)],
)
def test_what_images_need(missing: list[str], least: float, most: float) -> None:
    assert least <= sum(need.gib for need in image_needs(CACHE, missing)) <= most


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert disk_of(tmp_path / "a" / "b").device == tmp_path.stat().st_dev


async def test_programs_that_are_here_need_nothing() -> None:
    here = [name for name in COMPONENTS if name in {"etcd", "kubectl", "kube-apiserver"}]
    assert await disk_needs(here) == []


_STUB = """#!/bin/sh
echo "$0 $*" >> {log}
[ "$*" = "env GOCACHE" ] && echo {cache}/go
exit 0
"""


async def test_a_run_on_a_small_disk_says_so_before_apt_or_go_begin(tmp_path: Path) -> None:
    """The real command without its programs, 1 MiB for caches and for apt; stand-ins for what it may not call yet."""
    small, log, programs = tmp_path / "small", tmp_path / "asked", tmp_path / "bin"
    small.mkdir()
    programs.mkdir()
    log.touch()
    for name in ("apt-get", "go"):
        (programs / name).write_text(_STUB.format(log=log, cache=small))
        (programs / name).chmod(stat.S_IRWXU)
    for name in ("uv", "iptables", "conntrack", "ip", "mount", "nsenter", "sh"):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    disks = f"mount -t tmpfs -o size=1m small {small} && mount -t tmpfs -o size=1m apt /var/cache/apt"
    unshare = ("unshare", "--mount", *(("--user", "--map-root-user") if os.geteuid() else ()))
    script = f"{disks} && PATH={programs} exec {sys.executable} -m kaito_local run"
    environment = {"KAITO_CACHE": str(small / "cache"), "KAITO_STATE": str(small / "state"), "KUBEBUILDER_ASSETS": ""}
    with pytest.raises(CommandError) as failed:
        await run(*unshare, "sh", "-c", script, env=environment, cwd=REPOSITORY)
    for words in ("nothing was started", "the images 29.0 GiB", "the Go programs 8.6 GiB", "Debian packages"):
        assert words in failed.value.output
    asked = await asyncio.to_thread(log.read_text)
    assert {line.partition(" ")[2] for line in asked.splitlines()} <= {"env GOCACHE"}
