"""The answer of validation."""

from __future__ import annotations

import msgspec

from kaito_api.conditions import Reason
from workspace_controller.sizing import Sizing


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one field. `message` says what to do about it."""

    path: str
    """Path of the field as the user writes it: `resource.instanceType`."""
    reason: Reason
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement. Without errors the Workspace can be planned and `sizing` is there; with errors it is None."""

    errors: tuple[FieldError, ...] = ()
    warnings: tuple[str, ...] = ()
    sizing: Sizing | None = None


def invalid(path: str, message: str) -> FieldError:
    """Return a FieldError with the general reason."""
    return FieldError(path=path, reason=Reason.SPEC_INVALID, message=message)
