"""A sign of life from work that takes no steps: the supervisor ends a child that is silent for too long."""

from __future__ import annotations

import math
import time
from typing import Final

from tuner.events import Emitter, Event

SECONDS: Final = 10.0
"""Between two signs: far below every deadline, and nothing beside the work."""


class Heartbeat:
    """Passes an event on when the last one is long enough ago."""

    def __init__(self, emit: Emitter, seconds: float = SECONDS) -> None:
        self._emit = emit
        self._seconds = seconds
        self._last = -math.inf

    def __call__(self, event: Event) -> None:
        """Say that the work goes on."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._emit(event)
