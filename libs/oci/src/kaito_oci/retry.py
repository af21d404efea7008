"""When to try again and how long to wait before. Pure: the caller brings the randomness and the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from kaito_oci.limits import Patience

RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def pause(patience: Patience, attempt: int, jitter: float, retry_after: float | None) -> float:
    """Seconds before try `attempt` + 1 (counted from 0): exponential with full-range jitter in [0.5, 1], or what the
    registry asked for, both up to `backoff_cap`. `jitter` is a random number in [0, 1).
    """
    if retry_after is not None:
        return min(max(retry_after, 0.0), patience.backoff_cap)
    return float(min(patience.backoff * 2**attempt, patience.backoff_cap) * (0.5 + jitter / 2))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3: a number or a date), or None."""
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)
