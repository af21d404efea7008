"""core/v1 ConfigMap and apps/v1 ControllerRevision."""

from __future__ import annotations

from typing import Any

import msgspec

from kaito_api.meta import ObjectMeta


class ConfigMap(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 ConfigMap. `binary_data` is decoded from base64."""

    metadata: ObjectMeta
    data: dict[str, str] = {}
    binary_data: dict[str, bytes] = {}
    immutable: bool = False


class ControllerRevision(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """apps/v1 ControllerRevision: `data` is the stored state as plain JSON values; it can never be changed."""

    metadata: ObjectMeta
    revision: int = 0
    data: Any = None
