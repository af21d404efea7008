"""What a part of the status found: a condition without its type, its generation and its time."""

from __future__ import annotations

import msgspec

from kaito_api.conditions import Status
from kaito_api.meta import Condition


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something is as it should be, and why. The message says what to do next where somebody can do it."""

    ok: bool
    reason: str
    message: str

    def condition(self, type_: str, generation: int) -> Condition:
        """Return this finding as the condition of that type; the transition time is set when it is merged."""
        status = Status.TRUE if self.ok else Status.FALSE
        return Condition(
            type=type_, status=status, reason=self.reason, message=self.message, observed_generation=generation
        )
