"""Compiles Python sources for an image.

Containers run with a read-only root: without compiled files every start would compile vLLM and torch again. The usual
compiled file records its source's date, which a deterministic layer changes; hash-based ones (PEP 552) do not. The
split over processes is fixed, because the bytes depend on what the same interpreter compiled before.
"""

import asyncio
from pathlib import Path

from kaito_local.command import run

_PROCESSES = 4
# Exit status 1 means that some file is no valid Python (templates, samples of Python 2): expected.
_ACCEPT = frozenset({0, 1})


async def compile_tree(python: Path, folder: Path, *, strip: Path, prepend: str, timeout: float = 1200) -> None:
    """Compile everything below ``folder`` with ``python``; recorded paths have ``strip`` replaced by ``prepend``."""
    entries = _entries(folder)
    flags = ("-S", "-m", "compileall", "-qq", "-j", "1", "-s", strip, "-p", prepend)
    mode = ("--invalidation-mode", "unchecked-hash")
    env = {"PYTHONHASHSEED": "0", "PYTHONPATH": "", "PYTHONHOME": ""}
    async with asyncio.TaskGroup() as group:
        for number in range(_PROCESSES):
            part = entries[number::_PROCESSES]
            if part:
                group.create_task(run(python, *flags, *mode, *part, env=env, timeout=timeout, accept=_ACCEPT))


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() or path.suffix == ".py")
