"""How much disk a build of the images takes."""

from collections.abc import Iterable
from pathlib import Path

from kaito_local.disk import Need

# Peak need in GiB while a package set is made and taken into containerd: its tar, containerd's copy of it, the unpacked
# snapshot, and what uv downloads when its cache is cold. Measured; the big one is 6.1 GiB of packages.
_PEAK = {"engine-cpu": 25.0}
_PEAK_OTHER = 1.0
_BASE = 1.0


def image_needs(folder: Path, missing: Iterable[str]) -> list[Need]:
    """What making these package sets takes under ``folder``; nothing when none is missing."""
    names = set(missing)
    return [Need("the images", _BASE + sum(_PEAK.get(name, _PEAK_OTHER) for name in names), folder)] if names else []
