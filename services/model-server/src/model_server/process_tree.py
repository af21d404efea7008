"""All processes below this one, ended: children, their children, and what these start meanwhile."""

from __future__ import annotations

from contextlib import suppress

import psutil  # type: ignore[import-untyped]

_RESOURCE_TRACKER = "multiprocessing.resource_tracker"
"""It ends by itself with the last process that it serves, and removes the shared memory that they leave behind."""


def kill_descendants(pid: int, seconds: float) -> bool:
    """Kill every descendant of `pid`; return whether all were gone within `seconds`. Blocks.

    Each is stopped before its children are listed, so none can start another one unseen; an orphan would be found no more.
    """
    stopped: set[psutil.Process] = set()
    while fresh := _descendants(pid) - stopped:
        for process in fresh:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        stopped |= fresh
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(list(stopped), seconds)
    return not alive


def _descendants(pid: int) -> set[psutil.Process]:
    return {process for process in psutil.Process(pid).children(recursive=True) if not _is_tracker(process)}


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any(_RESOURCE_TRACKER in argument for argument in process.cmdline())
    except psutil.Error:
        return False  # it is ending
