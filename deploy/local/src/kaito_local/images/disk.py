"""How much disk a build takes, checked before it starts: half an image on a full disk helps nobody."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from kaito_local.errors import LocalError

GIB = 1 << 30

# Peak need in GiB while a package set is made and taken into containerd: its tar, containerd's copy of it, the unpacked
# snapshot, and what uv downloads when its cache is cold. Measured; the big one is 6.1 GiB of packages.
_PEAK = {"engine-cpu": 25.0}
_PEAK_OTHER = 1.0
_BASE = 1.0


def room_needed(missing: Iterable[str]) -> float:
    """GiB of free disk that making these package sets takes at its peak; zero when nothing is missing."""
    names = set(missing)
    return _BASE + sum(_PEAK.get(name, _PEAK_OTHER) for name in names) if names else 0.0


def check_room(folder: Path, missing: Iterable[str]) -> None:
    """Raise LocalError, with the numbers, when the disk under ``folder`` cannot take what has to be made."""
    needed = room_needed(missing)
    free = shutil.disk_usage(folder).free / GIB
    if free < needed:
        raise LocalError(shortage(folder, needed, free))


def shortage(folder: Path, needed: float, free: float) -> str:
    """What to tell a person whose disk is too small; GiB."""
    return (
        f"the images need about {needed:.0f} GiB of free disk while they are made, {folder} has {free:.1f} GiB: "
        "free some, or set KAITO_CACHE and KAITO_STATE to folders on one bigger disk"
    )
