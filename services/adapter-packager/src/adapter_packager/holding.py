"""Holding on while the registry is away or the Secret is wrong: the adapter behind it cost hours of GPU time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adapter_packager.exits import PackagerError, may_pass
from kaito_oci import DockerConfigError, OciError, errors
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.clock import Clock

QUIET_SECONDS: Final = 60.0
"""Once the time to hold on is over, an attempt whose bytes stand still for so long is ended."""
_AGAIN: Final = BackoffPolicy(base=1.0, cap=30.0)

Trouble = OciError | PackagerError | DockerConfigError
TROUBLES = (OciError, PackagerError, DockerConfigError)
Moved = Callable[[int], None]
"""What an attempt tells of: the bytes that have been sent so far."""
_T = TypeVar("_T")


async def hold_on(
    attempt: Callable[[Moved], Awaitable[_T]],
    *,
    seconds: float | None,
    clock: Clock,
    on_trouble: Callable[[Trouble, float], None],
) -> _T:
    """Repeat `attempt` with growing, jittered pauses for at most `seconds`, as long as its errors are of a kind that can pass.

    An attempt that is sending when the time is over may finish; one that stands still is ended. None: a single attempt, with no
    time but the registry client's own (somebody sits in front of it). `on_trouble` hears of each error and of the seconds that
    are left. Raises the last error; Unavailable for an attempt that was ended.
    """
    if seconds is None:
        return await attempt(_unwatched)
    deadline = clock.monotonic() + seconds
    pause, last = Backoff(_AGAIN), None
    while True:
        try:
            return await _Watch(clock, deadline, last).over(attempt)
        except TROUBLES as error:
            left = deadline - clock.monotonic()
            if left <= 0 or not may_pass(error):
                raise
            on_trouble(error, left)
            last = error
        await clock.sleep(min(pause.next(), left))


class _Watch:
    """One attempt, which is ended where it stands still after the deadline."""

    def __init__(self, clock: Clock, deadline: float, before: Trouble | None) -> None:
        self._clock = clock
        self._deadline = deadline
        self._before = before
        self._most = 0
        self._since = deadline
        self._limit = asyncio.timeout(None)

    async def over(self, attempt: Callable[[Moved], Awaitable[_T]]) -> _T:
        try:
            async with self._limit:
                self._timer = self._clock.call_later(self._left(), self._look)
                try:
                    return await attempt(self._moved)
                finally:
                    self._timer.cancel()
        except TimeoutError as error:
            if not self._limit.expired():
                raise
            before = f"; before that: {self._before}" if self._before is not None else ""
            message = (
                f"the time to hold on is over, and the registry has taken nothing for {QUIET_SECONDS:.0f} s{before}"
            )
            raise errors.Unavailable(message) from error

    def _moved(self, done: int) -> None:
        now = self._clock.monotonic()
        # Bytes that are sent once more are no progress: a registry that takes and loses them would be waited for without end.
        if now < self._deadline:
            self._most = done
        elif done > self._most:
            self._most, self._since = done, now

    def _left(self) -> float:
        return self._since + QUIET_SECONDS - self._clock.monotonic()

    def _look(self) -> None:
        left = self._left()
        if left > 0:
            self._timer = self._clock.call_later(left, self._look)
        else:
            self._limit.reschedule(asyncio.get_running_loop().time())


def _unwatched(_done: int) -> None:
    return None
