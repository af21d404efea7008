"""Why the process ends: one exit code, one reason and one message that says what to do next.

The codes are part of the contract with the workspace-controller, which turns them (and the report in the termination
log) into a condition of the Workspace.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from kaito_api.conditions import Reason


class ExitCode(IntEnum):
    """Exit codes of `model-server serve` and `model-server fetch`."""

    OK = 0
    USAGE = 64
    CONFIG_INVALID = 65
    WEIGHTS_MISSING = 66
    WEIGHTS_INVALID = 67
    ENGINE_LACKS_GPU = 68
    REGISTRY_UNAVAILABLE = 69
    ENGINE_FAILED = 70
    OUT_OF_MEMORY = 71
    ACCESS_DENIED = 72
    REGISTRY_UNTRUSTED = 73


REASONS: Final[dict[ExitCode, str]] = {
    ExitCode.USAGE: Reason.CONFIG_INVALID,
    ExitCode.CONFIG_INVALID: Reason.CONFIG_INVALID,
    ExitCode.WEIGHTS_MISSING: Reason.WEIGHTS_MISSING,
    ExitCode.WEIGHTS_INVALID: Reason.WEIGHTS_INVALID,
    ExitCode.ENGINE_LACKS_GPU: Reason.ENGINE_LACKS_GPU,
    ExitCode.REGISTRY_UNAVAILABLE: Reason.REGISTRY_UNAVAILABLE,
    ExitCode.ENGINE_FAILED: Reason.ENGINE_FAILED,
    ExitCode.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    ExitCode.ACCESS_DENIED: Reason.ACCESS_DENIED,
    ExitCode.REGISTRY_UNTRUSTED: Reason.REGISTRY_UNTRUSTED,
}


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
        return self._reason or REASONS[self.code]
