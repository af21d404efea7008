"""What the cloud could not give lately, so that the next claim starts with something else."""

from __future__ import annotations

from collections.abc import Iterable

from gpu_provisioner.claims.options import SPOT, LaunchOption
from gpu_provisioner.cloud.failure import CloudFailure, FailureClass

_HOUR = 3600.0


class Stockouts:
    """Remembers failed options for the time that suits their class. Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self._until: dict[LaunchOption, float] = {}

    def record(self, option: LaunchOption, failure: CloudFailure, now: float) -> None:
        """Notes that `option` failed with a class for which another option may succeed."""
        spot = option.capacity_type == SPOT
        seconds = {
            FailureClass.QUOTA: _HOUR if failure.permanent else 600.0,
            FailureClass.SKU_NOT_AVAILABLE: _HOUR if spot else 23 * _HOUR,
            FailureClass.CAPACITY: 600.0,
            FailureClass.ZONE: 23 * _HOUR,
        }.get(failure.failure)
        if seconds is not None:
            self._until[option] = max(self._until.get(option, 0.0), now + seconds)

    def forget(self, option: LaunchOption) -> None:
        """The option worked: it is no longer avoided."""
        self._until.pop(option, None)

    def choose(self, options: Iterable[LaunchOption], now: float) -> LaunchOption | None:
        """The first option that is not known to be out; None when all are."""
        return next((option for option in options if self._until.get(option, 0.0) <= now), None)

    def until(self, options: Iterable[LaunchOption]) -> float:
        """When the first of `options` may be tried again, in monotonic seconds; 0 when one may be now."""
        return min((self._until.get(option, 0.0) for option in options), default=0.0)
