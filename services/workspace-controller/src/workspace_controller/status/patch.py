"""Pure: the difference of two statuses as a JSON merge patch (RFC 7386)."""

from __future__ import annotations

from typing import Any

import msgspec

from kaito_api.workspace_status import WorkspaceStatus


def status_patch(stored: WorkspaceStatus, wanted: WorkspaceStatus) -> dict[str, Any]:
    """Return the patch of `.status` that makes `stored` into `wanted`; lists are replaced as wholes."""
    return _difference(msgspec.to_builtins(stored), msgspec.to_builtins(wanted))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = _difference(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch
