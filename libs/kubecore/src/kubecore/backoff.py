"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

MAX_EXPONENT = 40


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """How long to wait after the n-th failure in a row: base * 2^n, at most cap, less up to half of it at random."""

    base: float = 0.05
    """Seconds after the first failure."""
    cap: float = 120.0
    """Seconds that no wait exceeds."""

    def delay(self, failures: int, random_unit: float) -> float:
        """Return the wait in seconds. `failures` counts from 0, `random_unit` lies in [0, 1)."""
        whole = min(self.cap, self.base * 2.0 ** min(failures, MAX_EXPONENT))
        return whole * (1.0 - 0.5 * random_unit)


@dataclass(slots=True)
class Backoff:
    """A policy and its count of failures, for one retry loop."""

    policy: BackoffPolicy = field(default_factory=BackoffPolicy)
    failures: int = 0

    def next(self) -> float:
        """Count one more failure and return how long to wait for it."""
        delay = self.policy.delay(self.failures, random.random())
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Forget the failures after a success."""
        self.failures = 0
