"""A catalog of known numbers, builders for what the planners read, and a collector of traces."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kaito_api.core import Node
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.catalog_files import load_catalog
from workspace_controller.settings import Settings

HERE = Path(__file__).parent
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

BASE = """
metadata: {name: phi, namespace: team, uid: 5f0e6b9a-0000-4000-8000-000000000001, generation: 1}
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""

MakeWorkspace = Callable[..., Workspace]
MakeNode = Callable[..., Node]


class Collector:
    """An OTLP/HTTP collector: answers with the scripted statuses, then 200, and keeps what it accepted."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.accepted: list[ExportTraceServiceRequest] = []
        self.requests: list[dict[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append({"path": request.path, **request.headers})
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.accepted.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=status)

    def spans(self) -> list[Any]:
        """Every span, with all that stands around it checked."""
        found = []
        for request in self.accepted:
            (resource,) = request.resource_spans
            (scope,) = resource.scope_spans
            assert scope.scope.name == "workspace-controller"
            found += scope.spans
        return found

    def services(self) -> set[str]:
        attributes = [pair for r in self.accepted for pair in r.resource_spans[0].resource.attributes]
        return {pair.value.string_value for pair in attributes if pair.key == "service.name"}


def merged(base: Any, changes: Any) -> Any:
    """Overlay `changes` on `base`; None removes a key."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(base.get(key), value)
    return result


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog(HERE / "catalog")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings()


@pytest.fixture(scope="session")
def workspace() -> MakeWorkspace:
    def make(changes: str = "") -> Workspace:
        content = merged(yaml.safe_load(BASE), yaml.safe_load(textwrap.dedent(changes)) or {})
        return msgspec.convert(content, Workspace)

    return make


@pytest.fixture(scope="session")
def node() -> MakeNode:
    def make(name: str, labels: dict[str, str], *, ready: bool = True, gpus: int = 1, cordoned: bool = False) -> Node:
        allocatable = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        content = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"unschedulable": cordoned},
            "status": {
                "allocatable": allocatable,
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            },
        }
        return msgspec.convert(content, Node)

    return make


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()
