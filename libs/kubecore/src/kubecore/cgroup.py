"""A container's own accounting by the kernel, of cgroup v2 and v1: its CPUs, and its processes that died for lack of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
"""Where a process in a container finds its own group."""


def oom_kills(root: Path = ROOT) -> int | None:
    """Return how many of its processes the kernel has killed for lack of memory, or None where that cannot be read."""
    for name in ("memory.events", "memory/memory.oom_control"):  # cgroup v2, v1: a line "oom_kill N"
        for line in _read(root / name).splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill" and count.strip().isdigit():
                return int(count)
    return None


def oom_kills_since(before: int | None, root: Path = ROOT) -> int | None:
    """Return the kills since `oom_kills` said `before`; None where one of the two could not be read."""
    now = oom_kills(root)
    return None if before is None or now is None else now - before


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return the CPU limit in CPUs, None where there is none or it cannot be read."""
    text = _read(root / "cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
    if not text:  # cgroup v1: two files; a quota of -1 is none
        text = f"{_read(root / 'cpu' / 'cpu.cfs_quota_us')} {_read(root / 'cpu' / 'cpu.cfs_period_us')}"
    quota, _, period = text.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
