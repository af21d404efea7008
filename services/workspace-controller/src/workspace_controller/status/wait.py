"""What a Workspace waits for that no event ends or explains: told once it has lasted longer than it should."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """A wait, and how long it may last in silence."""

    grace_ends: datetime
    """From then on it is told."""

    def seconds_left(self, now: datetime) -> float:
        """Return for how long it is too early to say anything; 0 once it is told."""
        return max(0.0, (self.grace_ends - now).total_seconds())


def next_telling(now: datetime, *waits: Wait | None) -> float | None:
    """Return the seconds until the first of `waits` that is still silent is to be told; None where there is none."""
    silent = (wait.seconds_left(now) for wait in waits if wait is not None)
    return min((seconds for seconds in silent if seconds), default=None)
