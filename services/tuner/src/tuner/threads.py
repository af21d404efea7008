"""How many threads a training process computes with."""

from __future__ import annotations

import os

from kubecore import cgroup


def threads(processes: int) -> int:
    """Return how many threads each of `processes` shall compute with: the container's CPU limit, shared out.

    Libraries count the machine's cores instead; with a limit below that, threads mostly wait for the kernel's throttling.
    """
    return shared(len(os.sched_getaffinity(0)), cgroup.cpu_limit(), processes)


def shared(cores: int, limit: float | None, processes: int) -> int:
    """Threads of one process. A started CPU counts as a whole one. Pure."""
    usable = cores if limit is None else min(cores, -int(-limit // 1))
    return max(1, usable // processes)
