"""The token buckets with which AKS and ARM throttle: so many calls at once, then a steady refill."""

import math
from dataclasses import dataclass, field


@dataclass
class TokenBucket:
    """`burst` calls at once, then `per_second` more each second."""

    burst: float
    per_second: float
    _tokens: float = field(init=False)
    _at: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, now: float) -> int:
        """Takes one token at the monotonic time `now` (seconds); 0 when granted, else whole seconds to wait."""
        if self._at is not None:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0
        return max(1, math.ceil((1 - self._tokens) / self.per_second))

    @property
    def remaining(self) -> int:
        """Whole tokens left, as the x-ms-ratelimit headers report them."""
        return int(self._tokens)


def aks_buckets() -> dict[str, TokenBucket]:
    """The documented limits of AKS, per cluster; "put" is the one that bounds how fast pools can be made."""
    return {
        "put": TokenBucket(20, 1 / 60),
        "list": TokenBucket(60, 1),
        "operation": TokenBucket(200, 2),
        "delete": TokenBucket(60, 1),
        "get": TokenBucket(60, 1),
        "post": TokenBucket(60, 1),
    }


def open_buckets() -> dict[str, TokenBucket]:
    """Buckets so wide that nothing is ever throttled."""
    return {route: TokenBucket(1_000_000, 1_000_000) for route in aks_buckets()}
