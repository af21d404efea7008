"""core/v1 Namespace."""

from __future__ import annotations

import msgspec

from kaito_api.meta import ObjectMeta


class NamespaceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Phase is Active or Terminating; in a Terminating one nothing can be created."""

    phase: str = ""


class Namespace(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Namespace."""

    metadata: ObjectMeta
    status: NamespaceStatus = NamespaceStatus()
