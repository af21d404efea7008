"""Traces as a collector receives them: OpenTelemetry's own exporter, against a server that decodes what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import WorkspaceState, WorkspaceStatus
from kubecore.testing.asserts import eventually
from workspace_controller.__main__ import parse
from workspace_controller.metrics import Metrics
from workspace_controller.observed import Observed
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.traces import Traces, span_id, trace_id, wanted

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DONE = datetime(2026, 11, 21, 12, 4, 1, tzinfo=UTC)
UID = "5f0e6b9a-0000-4000-8000-000000000001"
READY = WorkspaceStatus(state=WorkspaceState.READY)


class Sender:
    """Traces at work, and what they counted."""

    def __init__(self, traces: Traces, registry: CollectorRegistry) -> None:
        self.traces = traces
        self._registry = registry

    def count(self, outcome: str) -> float | None:
        return self._registry.get_sample_value("kaito_workspace_traces_total", {"outcome": outcome})


@asynccontextmanager
async def sending() -> AsyncIterator[Sender]:
    registry = CollectorRegistry()
    traces = Traces.from_environment(Metrics(registry))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(traces.run())
        yield Sender(traces, registry)
        running.cancel()


def observed(state: str = "") -> Observed:
    metadata = {"name": "phi", "namespace": "team", "uid": UID, "creationTimestamp": START}
    workspace = {"metadata": metadata, "inference": {"preset": {"name": "phi-4"}}, "status": {"state": state}}
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": DONE}]
    claim = {"metadata": {"name": "wa", "creationTimestamp": START}, "spec": {}, "status": {"conditions": conditions}}
    return Observed(workspace=msgspec.convert(workspace, Workspace), claims=(msgspec.convert(claim, NodeClaim),))


async def test_a_collector_receives_one_trace_for_the_first_success(
    collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    async with sending() as sender:
        sender.traces.told(observed(), WorkspaceStatus(state=WorkspaceState.PENDING), DONE)
        sender.traces.told(observed(), READY, DONE)
        sender.traces.told(observed(WorkspaceState.READY), READY, DONE)
        sender.traces.told(observed(WorkspaceState.NOT_READY), READY, DONE)
        await eventually(lambda: sender.count("sent") == 1, timeout=30)
    (request,) = collector.requests
    assert (request["path"], request["x-tenant"]) == ("/v1/traces", "blue")
    assert request["Content-Type"] == "application/x-protobuf"
    whole, claim = collector.spans()
    assert {span.trace_id.hex() for span in (whole, claim)} == {UID.replace("-", "")}
    assert (whole.name, whole.parent_span_id) == ("workspace", b"")
    assert (claim.name, claim.parent_span_id) == ("claim", whole.span_id)
    assert whole.end_time_unix_nano - whole.start_time_unix_nano == 241 * 10**9
    assert whole.start_time_unix_nano == int(START.timestamp()) * 10**9
    assert {pair.key: pair.value.string_value for pair in claim.attributes}["kaito.claim.name"] == "wa"
    assert collector.services() == {"workspace-controller"}


async def test_a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/custom")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "kaito-blue")
    async with sending() as sender:
        collector.statuses = [503]
        sender.traces.told(observed(), READY, DONE)
        await eventually(lambda: sender.count("sent") == 1, timeout=30)
        collector.statuses = [400]
        sender.traces.told(observed(), READY, DONE)
        await eventually(lambda: sender.count("failed") == 1, timeout=30)
    assert len(collector.requests) == 3
    assert {request["path"] for request in collector.requests} == {"/custom"}
    assert collector.services() == {"kaito-blue"}


async def test_nobody_waits_for_a_collector(collector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted while nothing is sent fills a queue; what comes on top is dropped and counted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    registry = CollectorRegistry()
    traces = Traces.from_environment(Metrics(registry))
    for _ in range(260):
        traces.told(observed(), READY, DONE)
    assert registry.get_sample_value("kaito_workspace_traces_total", {"outcome": "dropped"}) == 4
    assert collector.requests == []


async def test_variables_that_make_no_sense_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", ":::")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    async with sending() as sender:
        for failed in (1, 2):
            sender.traces.told(observed(), READY, DONE)
            await eventually(lambda failed=failed: sender.count("failed") == failed, timeout=30)


@pytest.mark.parametrize(
    ("environment", "traced"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_off_unless_a_collector_is_named(environment: dict[str, str], traced: bool) -> None:
    assert wanted(environment) is traced
    process: ProcessSettings = parse([], environment)[1]
    assert process.traces is traced


def test_ids_are_derived_and_never_zero() -> None:
    assert f"{trace_id(UID):032x}" == UID.replace("-", "")
    assert trace_id("no uuid") == trace_id("no uuid") != 0
    assert trace_id("00000000-0000-0000-0000-000000000000") != 0
    assert span_id(UID, "workspace") == span_id(UID, "workspace") != span_id(UID, "workspace/pod:a")
