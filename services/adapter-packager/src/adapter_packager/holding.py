"""Holding on while the registry is away or the Secret is wrong: the adapter behind it cost hours of GPU time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapter_packager.exits import PackagerError, may_pass
from kaito_oci import DockerConfigError, OciError
from kubecore.clock import Clock

_FIRST, _LONGEST = 1.0, 30.0

Trouble = OciError | PackagerError | DockerConfigError
TROUBLES = (OciError, PackagerError, DockerConfigError)
_T = TypeVar("_T")


async def hold_on(
    attempt: Callable[[], Awaitable[_T]], *, seconds: float, clock: Clock, on_trouble: Callable[[Trouble, float], None]
) -> _T:
    """Repeat `attempt` with growing, jittered pauses for at most `seconds`, as long as its errors are of a kind that can pass.

    `on_trouble` hears of each error and of the seconds that are left. Raises the last error.
    """
    deadline = clock.monotonic() + seconds
    pause = _FIRST
    while True:
        try:
            return await attempt()
        except TROUBLES as error:
            left = deadline - clock.monotonic()
            if left <= 0 or not may_pass(error):
                raise
            on_trouble(error, left)
        await clock.sleep(min(pause * random.uniform(0.8, 1.2), left))
        pause = min(pause * 2, _LONGEST)
