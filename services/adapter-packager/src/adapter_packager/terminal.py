"""Progress for a person at a terminal; nothing where stderr is a file."""

from __future__ import annotations

import sys
import time

_MIB = 1024 * 1024


class Terminal:
    """One line on stderr that is rewritten while bytes move."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._started = time.monotonic()
        self._live = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is."""
        if not self._live or total < _MIB:
            return
        seconds = max(time.monotonic() - self._started, 0.001)
        share, rate = 100 * done // total, done / seconds / _MIB
        sys.stderr.write(f"\r{self._verb} {done // _MIB}/{total // _MIB} MiB  {share} %  {rate:.0f} MiB/s\033[K")
        if done >= total:
            sys.stderr.write("\n")
        sys.stderr.flush()
