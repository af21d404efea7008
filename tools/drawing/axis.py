"""Where the ticks of an axis stand."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_CLOCK = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Steps in seconds that people read at a glance."""
_MOST_STEPS = 5


def values(low: float, high: float, unit: str) -> list[float]:
    """Return three to five ticks from `low`; the last one is not below `high`."""
    span = high - low if high > low else 1.0
    step = _step(span / 4, unit)
    count = max(math.ceil(span / step - 1e-9), 1)
    return [low + step * number for number in range(count + 1)]


def times(start: float, end: float) -> list[tuple[float, str]]:
    """Return at most six ticks between two moments, in seconds since 1970, with the time of day in UTC."""
    step = next((step for step in _CLOCK if (end - start) / step <= _MOST_STEPS), _CLOCK[-1])
    form = "%H:%M" if step >= 60 else "%H:%M:%S"
    first = math.ceil(start / step) * step
    return [(at, datetime.fromtimestamp(at, UTC).strftime(form)) for at in range(first, math.floor(end) + 1, step)]


def _step(least: float, unit: str) -> float:
    if unit == "bytes":
        return float(2 ** math.ceil(math.log2(max(least, 1))))
    if unit == "s" and 1 < least <= _CLOCK[-1]:
        return float(next(step for step in _CLOCK if step >= least))
    power = 10.0 ** math.floor(math.log10(least))
    # A hair below each, so that 0.5 stays 0.5 after a division that makes it 0.5000000001.
    return next(nice * power for nice in (1.0, 2.0, 2.5, 5.0, 10.0) if nice * power >= least * (1 - 1e-9))
