"""How long each phase of a run took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kaito_local.progress import say


class Phases:
    """Announces phases, measures them, and keeps the figures for a table."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rows: list[tuple[str, float]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """One phase; a phase that fails is not in the table."""
        say(f"\n== {name}")
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self._rows.append((name, took))
        say(f"   ({took:.1f} s)")

    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def table(self) -> str:
        """Every phase with its seconds, and the sum."""
        rows = [*self._rows, ("in all", self.seconds())]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:<{width}}  {seconds:7.1f} s" for name, seconds in rows)
