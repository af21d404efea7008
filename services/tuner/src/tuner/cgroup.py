"""The container's own accounting by the kernel: how many CPUs it may use, and how many of its processes died for memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


def threads(processes: int, root: Path = ROOT) -> int:
    """Return how many threads each of `processes` shall compute with: the container's CPU limit, shared out.

    Libraries count the machine's cores instead; with a limit below that, threads mostly wait for the kernel's throttling.
    """
    return shared(len(os.sched_getaffinity(0)), cpu_limit(root), processes)


def shared(cores: int, limit: float | None, processes: int) -> int:
    """Threads of one process. A started CPU counts as a whole one. Pure."""
    usable = cores if limit is None else min(cores, -int(-limit // 1))
    return max(1, usable // processes)


def cpu_limit(root: Path = ROOT) -> float | None:
    """The CPU limit of this container in CPUs, None where there is none or it cannot be read."""
    text = _read(root / "cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"
    if text is None:  # cgroup v1: two files; a quota of -1 is none
        text = f"{_read(root / 'cpu' / 'cpu.cfs_quota_us')} {_read(root / 'cpu' / 'cpu.cfs_period_us')}"
    quota, _, period = text.strip().partition(" ")
    if not (quota.strip().isdigit() and period.strip().isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


def oom_kills(root: Path = ROOT) -> int:
    """Processes of this container that the kernel killed for lack of memory, 0 where that cannot be read."""
    for name in ("memory.events", "memory/memory.oom_control"):  # cgroup v2, v1: a line "oom_kill N"
        for line in (_read(root / name) or "").splitlines():
            key, _, count = line.partition(" ")
            if key == "oom_kill" and count.strip().isdigit():
                return int(count)
    return 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
