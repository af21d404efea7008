"""The container's own memory accounting: how many of its processes the kernel has killed for lack of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FILES: Final = (
    Path("/sys/fs/cgroup/memory.events"),  # cgroup v2: "oom_kill N"
    Path("/sys/fs/cgroup/memory/memory.oom_control"),  # cgroup v1: "oom_kill N"
)


def oom_kills(files: tuple[Path, ...] = _FILES) -> int | None:
    """Return the counter, or None where no such file can be read."""
    for path in files:
        try:
            text = path.read_text()
        except OSError:
            continue
        count = parse(text)
        if count is not None:
            return count
    return None


def parse(text: str) -> int | None:
    """Return N of the line `oom_kill N`."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.strip().isdigit():
            return int(number)
    return None
