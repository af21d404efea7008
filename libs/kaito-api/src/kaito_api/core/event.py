"""core/v1 Event, the kind that `kubectl describe` and `kubectl get events` show with counts."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kaito_api.meta import ObjectMeta


class ObjectReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What an Event is about."""

    kind: str = ""
    api_version: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class EventSource(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Who says it."""

    component: str = ""
    host: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Event. `type` is Normal or Warning."""

    metadata: ObjectMeta
    involved_object: ObjectReference
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    count: int = 1
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    source: EventSource = EventSource()
    reporting_component: str = ""
    reporting_instance: str = ""
