"""Sends the way of each Workspace to its aim as one OpenTelemetry trace, where the environment names a collector.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) is set. OTLP over HTTP with protobuf, by OpenTelemetry's own
exporter, which reads its further settings (headers, certificates, timeout, compression, resource attributes) from the standard
variables. It blocks, so it runs in a thread; nothing waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from workspace_controller.journey import Step, first_success, journey
from workspace_controller.metrics import Metrics
from workspace_controller.observed import Observed

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from kaito_api.workspace_status import WorkspaceStatus

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE: Final = "workspace-controller"
_WAITING_LIMIT: Final = 256
"""Traces that wait for a slow collector; what comes on top is dropped and counted."""
_DEADLINE: Final = 60.0
"""Seconds for one export, its retries included; the exporter's own timeout (10 s unless set) ends it earlier."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNNAMED: Final = "unknown_service"
"""How the SDK calls a service to which no variable gives a name."""


def wanted(environment: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return not disabled and any(environment.get(name, "").strip() for name in _ENDPOINTS)


def trace_id(workspace_uid: str) -> int:
    """Return the id of a Workspace's only trace: its UID, which has the same 128 bits. It can be looked up without a search."""
    try:
        number = uuid.UUID(workspace_uid).int
    except ValueError:
        number = 0
    return number or int.from_bytes(hashlib.sha256(workspace_uid.encode()).digest()[:16])


def span_id(workspace_uid: str, path: str) -> int:
    """Return the id of a step: derived, so that a trace that is sent twice is still one."""
    return int.from_bytes(hashlib.sha256(f"{workspace_uid}/{path}".encode()).digest()[:8]) or 1


def spans(workspace_uid: str, steps: Sequence[Step], resource: Resource) -> list[ReadableSpan]:
    """Return the steps as finished spans of one trace."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, TraceFlags

    def context(path: str) -> SpanContext:
        sampled = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(trace_id(workspace_uid), span_id(workspace_uid, path), is_remote=False, trace_flags=sampled)

    return [
        ReadableSpan(
            step.name,
            context=context(step.path),
            parent=context(step.parent) if step.parent else None,
            resource=resource,
            attributes=dict(step.attributes),
            start_time=_nanoseconds(step.start),
            end_time=_nanoseconds(step.end),
            instrumentation_scope=InstrumentationScope(_SERVICE),
        )
        for step in steps
    ]


class Traces:
    """Takes note of traces in the reconcile and sends them in `run`."""

    def __init__(self, exporter: SpanExporter, resource: Resource, metrics: Metrics) -> None:
        self._exporter = exporter
        self._resource = resource
        self._metrics = metrics
        self._waiting: asyncio.Queue[tuple[str, tuple[Step, ...]]] = asyncio.Queue(_WAITING_LIMIT)

    @classmethod
    def from_environment(cls, metrics: Metrics) -> Self:
        """Return what sends as the standard variables say. Where they make no sense, the exporter says so and exports fail."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource

        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        return cls(OTLPSpanExporter(), resource, metrics)

    def told(self, observed: Observed, after: WorkspaceStatus, now: datetime) -> None:
        """Note the trace of a Workspace whose status, which has just been written, reaches its aim for the first time."""
        if not first_success(observed.workspace.status, after):
            return
        steps = journey(observed, now)
        if not steps:
            return
        try:
            self._waiting.put_nowait((observed.workspace.metadata.uid, steps))
        except asyncio.QueueFull:
            self._metrics.traces.labels("dropped").inc()

    async def run(self) -> None:
        """Send what is noted, until cancelled. What cannot be sent is counted, and forgotten: the exporter logs why."""
        try:
            while True:
                uid, steps = await self._waiting.get()
                sent = await self._send(spans(uid, steps, self._resource))
                self._metrics.traces.labels("sent" if sent else "failed").inc()
        finally:
            self._exporter.shutdown()

    async def _send(self, batch: Sequence[ReadableSpan]) -> bool:
        try:
            async with asyncio.timeout(_DEADLINE):
                result = await asyncio.to_thread(self._exporter.export, batch)
        except TimeoutError:
            return False
        return result.name == "SUCCESS"


def _nanoseconds(at: datetime) -> int:
    """Return nanoseconds since 1970, exactly: a float of seconds has not enough digits."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000
