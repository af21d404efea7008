"""Why the process ends: one exit code, one reason and one message that says what to do next.

The codes are the contract with the Job's podFailurePolicy: PERMANENT ones fail the Job at once, for the same input would
fail again; all others are counted by backoffLimit, and a new pod goes on from the last whole checkpoint.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from kaito_api.conditions import Reason


class ExitCode(IntEnum):
    """Exit codes of `tuner` and of its training child."""

    OK = 0
    USAGE = 64
    CONFIG_INVALID = 65
    WEIGHTS_MISSING = 66
    WEIGHTS_INVALID = 67
    DATA_UNAVAILABLE = 69
    """The host of the data is down or too slow; the same command can succeed later."""
    TRAINING_FAILED = 70
    OUT_OF_MEMORY = 71
    """With one sample at a time too, or before the first step."""
    DATA_INVALID = 73
    DISK_FULL = 74
    TRAINING_HUNG = 75
    """No step within the deadline, again after restarts."""
    INTERRUPTED = 143
    """SIGTERM; a checkpoint was written where there was something to keep."""


REASONS: Final[dict[ExitCode, str]] = {
    ExitCode.USAGE: Reason.CONFIG_INVALID,
    ExitCode.CONFIG_INVALID: Reason.CONFIG_INVALID,
    ExitCode.WEIGHTS_MISSING: Reason.WEIGHTS_MISSING,
    ExitCode.WEIGHTS_INVALID: Reason.WEIGHTS_INVALID,
    ExitCode.DATA_UNAVAILABLE: "DataUnavailable",
    ExitCode.TRAINING_FAILED: Reason.TRAINING_FAILED,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.DATA_INVALID: Reason.DATA_INVALID,
    ExitCode.DISK_FULL: "DiskFull",
    ExitCode.TRAINING_HUNG: Reason.TRAINING_HUNG,
    ExitCode.INTERRUPTED: "Interrupted",
}

PERMANENT: Final = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.CONFIG_INVALID,
        ExitCode.WEIGHTS_MISSING,
        ExitCode.WEIGHTS_INVALID,
        ExitCode.TRAINING_FAILED,
        ExitCode.OUT_OF_MEMORY,
        ExitCode.DATA_INVALID,
        ExitCode.DISK_FULL,
        ExitCode.TRAINING_HUNG,
    }
)
"""Codes for the podFailurePolicy's FailJob."""


class FatalError(Exception):
    """The process cannot go on. `str()` is the message for the user: what is wrong, then what to do."""

    def __init__(self, code: ExitCode, message: str, reason: str = "") -> None:
        """`reason` is for the report where the code's own says too little; whether to try again follows from the code."""
        super().__init__(message)
        self.code = code
        self._reason = reason

    @property
    def reason(self) -> str:
        """The CamelCase reason of the report: the one that was given, else the exit code's."""
        return self._reason or str(REASONS[self.code])
