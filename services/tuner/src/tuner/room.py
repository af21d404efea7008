"""How much a folder may hold: what the disk has, and where a kubelet evicts the pod beyond a size, what is left of that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import msgspec

from tuner.exits import ExitCode, FatalError

RESERVE: Final = 64 * 1024 * 1024
"""Bytes that stay free."""
_BLOCK: Final = 512
"""Bytes of one of stat's blocks, whatever the file system's are."""


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A folder with everything in it."""

    folder: str
    limit: int = 0
    """Bytes that it may hold; 0 for as many as the disk has."""


def used(folder: Path) -> int:
    """Bytes of all files, as a kubelet counts them for the size limit of an emptyDir, or will as soon as they are on the disk."""
    found = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                stat = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue  # another process's partial file
            found += max(stat.st_size, stat.st_blocks * _BLOCK)
    return found


def left(room: Room) -> int:
    """Bytes that may come; below 0 where there are too many already."""
    free = shutil.disk_usage(room.folder).free - RESERVE
    return free if room.limit == 0 else min(free, room.limit - used(Path(room.folder)) - RESERVE)


def require(room: Room, needed: int, what: str) -> None:
    """Make sure of `needed` more bytes for `what`. Raises FatalError(DISK_FULL)."""
    free = left(room)
    if needed > free:
        raise full(room, f"{what} needs {needed} bytes, but only {max(0, free)} are free")


def full(room: Room, what: str) -> FatalError:
    """Return the error that says what to change."""
    limited = room.limit and room.limit - used(Path(room.folder)) < shutil.disk_usage(room.folder).free
    advice = (
        f"it may hold {room.limit} (--work-bytes): give the data as a volume (tuning.input.volumeSource), or let the operator "
        "raise settings.tuning.scratchGib (--tuner-scratch-gib)"
        if limited
        else "give the data volume more"
    )
    return FatalError(ExitCode.DISK_FULL, f"{what} in {room.folder}; {advice}")
