"""Free disk, looked at before anything is made: half an image or half a build on a full disk helps nobody."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from kaito_local.errors import LocalError

GIB = 1 << 30


class Need(msgspec.Struct, frozen=True):
    """What something takes of a disk at its peak."""

    what: str
    """As a person calls it: "the images"."""
    gib: float
    folder: Path
    """Where it will lie; need not exist yet."""


class Disk(msgspec.Struct, frozen=True):
    """One file system: its device number, and what is free on it in GiB."""

    device: int
    free: float


def disk_of(folder: Path) -> Disk:
    """The disk that a folder lies on, or would lie on once it is made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return Disk(there.stat().st_dev, shutil.disk_usage(there).free / GIB)


def check_room(needs: Iterable[Need]) -> None:
    """Raise LocalError, with the numbers, when a disk cannot take all that will lie on it."""
    if lacking := shortage(needs, disk_of):
        raise LocalError(lacking)


def shortage(needs: Iterable[Need], look: Callable[[Path], Disk]) -> str:
    """What to tell a person whose disks are too small for all of this together; "" when they are not."""
    together: dict[int, list[Need]] = {}
    disks: dict[int, Disk] = {}
    for need in needs:
        disk = look(need.folder)
        disks[disk.device] = disk
        together.setdefault(disk.device, []).append(need)
    lines = [
        _line(wanted, disks[device].free)
        for device, wanted in together.items()
        if sum(need.gib for need in wanted) > disks[device].free
    ]
    if not lines:
        return ""
    way_out = "free some, or set KAITO_CACHE and KAITO_STATE to folders on one bigger disk (GOCACHE, GOMODCACHE for Go)"
    return "\n".join(["there is not enough free disk, and nothing was started:", *lines, way_out])


def _line(needs: list[Need], free: float) -> str:
    parts = ", ".join(f"{need.what} {need.gib:.1f} GiB" for need in needs)
    total = sum(need.gib for need in needs)
    return f"  {needs[0].folder} has {free:.1f} GiB and about {total:.1f} GiB are needed at the peak: {parts}"
