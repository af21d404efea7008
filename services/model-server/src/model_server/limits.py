"""Whether a request may enter: the queue guard and the drain, as one pure decision."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

RETRY_AFTER_BUSY_SECONDS: Final = 2
RETRY_AFTER_DRAINING_SECONDS: Final = 1
"""Another pod, or this one's successor, may answer at once."""
RETRY_AFTER_ADAPTER_SECONDS: Final = 3
"""OpenAI's clients ask twice more: together that is longer than the load of an adapter of 100 MB."""


class Verdict(StrEnum):
    """What happens to a new request."""

    ADMIT = "admit"
    BUSY = "busy"
    """429: the queue is as long as a whole batch already."""
    DRAINING = "draining"
    """503: the server is about to end."""


def admit(*, accepting: bool, rate_limit: bool, in_flight: int, sequences: int, batch: int) -> Verdict:
    """Decide about one request.

    `in_flight` counts HTTP requests, `sequences` what the engine has running or waiting (a request with n choices is
    n), `batch` what it can run at once. As in KAITO, the queue may hold one batch beyond the running one.
    """
    if not accepting:
        return Verdict.DRAINING
    if rate_limit and max(in_flight, sequences) - batch > batch:
        return Verdict.BUSY
    return Verdict.ADMIT
