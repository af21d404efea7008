"""coordination.k8s.io/v1 Lease."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kaito_api.meta import ObjectMeta


class LeaseSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who leads. The two times are metav1.MicroTime: write them with `kaito_api.meta.micro_time`."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()
