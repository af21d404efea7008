"""A real Prometheus scrapes the controllers at work on a real apiserver; every query of every dashboard returns data.

Controller and provisioner serve Workspaces and claims in this process. The model server's and the tuner's pages are made by their
own code from a little traffic; no engine runs here, so of vLLM's own metrics the names are compared with the installed release.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from provisioner_stage import Stage, stage
from security_flows import MANIFEST, Flows

import model_server.metrics
import tuner.metrics
from adapter_packager.metrics import Figures, Phase
from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.wiring import Provisioner
from kaito_api.meta import Key
from kaito_api.report import EngineReport, Report, TuningReport
from kaito_api.resources import NODECLAIMS
from kaito_api.workspace_status import WorkspaceState
from kaito_local.prometheus import BOARDS, RULES, Prometheus, Query, Target, prometheus, queries
from kaito_oci import BytesBlob, media_types
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.config import load_config
from kubecore.leader import LeaderConfig
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport
from workspace_controller.catalog_files import load_catalog
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.settings import Settings
from workspace_controller.wiring import wire

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

POD = {"namespace": "team", "pod": "phi-0", "workspace": "phi"}
QUERIES = queries(POD["namespace"], POD["workspace"])
ENGINE = EngineReport(dtype="bfloat16", max_model_len=4096, kv_cache_tokens=150_000)
PATIENCE = 90.0


@asynccontextmanager
async def page(registry: CollectorRegistry | str) -> AsyncIterator[int]:
    """Serve a page of metrics; yields its port."""

    async def metrics(_: web.Request) -> web.Response:
        body = registry.encode() if isinstance(registry, str) else generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Served:
    """The page of a model server: its own code counts; vLLM's part is made by name."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._own = model_server.metrics.Metrics(self.registry)
        self._own.ready.set(1)
        self._own.in_flight.set(2)
        self._own.adapter_load.labels("pull").observe(0.2)
        self._own.adapter_state.labels("extra", "sha256:1", "1.0", "Ready").set(1)
        made = [kind(name, name, registry=self.registry) for name, kind in vllm_names().items()]
        self._durations = [each for each in made if isinstance(each, Histogram)]
        self.request()

    def request(self) -> None:
        """One more request: a rate needs a second one."""
        self._own.count("extra", "2xx", None)
        self._own.tokens.labels("extra", "prompt").inc(3)
        for each in self._durations:
            each.observe(0.1)


def vllm_names() -> dict[str, Any]:
    """The metrics of vLLM that dashboards name, with their kind."""
    found: dict[str, Any] = {}
    for query in QUERIES:
        for name in re.findall(r"vllm:\w+", query.expression):
            if name.endswith("_bucket"):
                found[name.removesuffix("_bucket")] = Histogram
            else:
                found[name.removesuffix("_total")] = PrometheusCounter if name.endswith("_total") else Gauge
    return found


def held_push() -> CollectorRegistry:
    """The page of a packager that waits for a registry."""
    figures, registry = Figures(SystemClock()), CollectorRegistry()
    figures.counted([BytesBlob(b"{}", media_types.OCI_CONFIG)])
    figures.begin(600)
    figures.enter(Phase.PUSH)
    figures.retried("RegistryUnavailable")
    registry.register(figures)
    return registry


@asynccontextmanager
async def controller(apiserver: Any, namespace: str) -> AsyncIterator[int]:
    """The workspace-controller, electing itself; yields the port of its metrics."""
    leader = LeaderConfig("workspace-controller", namespace, lease_seconds=30, renew_deadline=20.0)
    process = ProcessSettings(health_port=0, metrics_port=0, leader=leader)
    async with Transport(load_config(str(apiserver.kubeconfig)), user_agent="workspace-controller") as link:
        wired = await wire(Client(link), load_catalog(None), Settings(), process, registry=REGISTRY)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wired.manager.run())
            await eventually(lambda: wired.manager.metrics_port, timeout=PATIENCE)
            yield wired.manager.metrics_port
            wired.manager.stop()
            await task


@asynccontextmanager
async def provisioner(s: Stage) -> AsyncIterator[int]:
    """The gpu-provisioner against the cloud's stand-in; yields the port of its metrics."""
    registry = CollectorRegistry()
    async with connect(s.settings.azure) as cloud, page(registry) as port:
        service = Provisioner(
            client=Client(s.client.transport),
            cloud=cloud,
            kinds={ClaimKind.NODE_CLAIM},
            settings=s.settings,
            registry=registry,
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(service.manager.run())
            try:
                yield port
            finally:
                service.manager.stop()
                await running


async def test_every_query_of_every_dashboard_returns_data(apiserver: Any, namespace: str, tmp_path: Path) -> None:
    report = TuningReport(
        step=3, total_steps=10, loss=1.0, eval_loss=1.1, tokens_per_second=9.0, eta_seconds=5, peak_memory_bytes=1 << 30
    )
    async with AsyncExitStack() as stack:
        s = await stack.enter_async_context(stage(apiserver, tmp_path))
        nodes = await stack.enter_async_context(provisioner(s))
        controllers = await stack.enter_async_context(controller(apiserver, namespace))
        served = Served()
        model = await stack.enter_async_context(page(served.registry))
        training = await stack.enter_async_context(page(tuner.metrics.exposition(report)))
        pushing = await stack.enter_async_context(page(held_push()))
        pages = [("kaito-controllers", controllers, {}), ("kaito-provisioner", nodes, {})]
        pages += [("kaito-models", model, POD), ("kaito-tuners", training, POD), ("kaito-packagers", pushing, POD)]
        server = await stack.enter_async_context(prometheus(tmp_path))
        await server.scrape([Target(job, f"127.0.0.1:{port}", labels) for job, port, labels in pages])
        flows = Flows(s.client, namespace, NODECLAIMS)
        await flows.serve("phi", MANIFEST, Report(state="Ready", at=datetime.now(UTC), engine=ENGINE))
        await flows.apply("wrong", MANIFEST | {"inference": {"preset": {"name": "phi-99"}}})
        served.request()
        await s.claim("ended")
        await s.ready("ended")
        await s.client.delete(NODECLAIMS, Key("", "ended"))

        await server.answer(QUERIES)
        await nothing_counted_is_no_answer(server)
        await eventually(lambda: variables_have_values(server), timeout=PATIENCE)
        await eventually(lambda: alerts_know_their_metrics(server), timeout=PATIENCE)


async def nothing_counted_is_no_answer(server: Prometheus) -> None:
    never = Query(
        "board", "A quantile over nothing", "histogram_quantile(0.5, kaito_workspace_ready_duration_seconds_bucket * 0)"
    )
    absent = Query("board", "No series", "absent_metric")
    await server.answer([never], idle=True)
    for query, idle in ((never, False), (absent, False), (absent, True)):
        with pytest.raises(AssertionError, match=query.panel):
            await server.answer([query], idle=idle, timeout=1)


async def variables_have_values(server: Prometheus) -> bool:
    for file in BOARDS:
        for variable in json.loads(file.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()
            assert await server.get(f"label/{label}/values", **{"match[]": metric}), (file.stem, variable["name"])
    return True


async def alerts_know_their_metrics(server: Prometheus) -> bool:
    """The rules are evaluated and healthy, and what they look at is exposed: with type and help, even before it happens."""
    known = set(await server.get("metadata"))
    known |= {f"{name}_total" for name in known}
    groups = (await server.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == sum(len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"])
    assert {rule["health"] for rule in rules} == {"ok"}, [r.get("lastError") for r in rules if r["health"] != "ok"]
    for rule in rules:
        metrics = set(re.findall(r"\b(?:kaito|kubecore|gpu_provisioner)_\w+", rule["query"]))
        assert metrics <= known, (rule["name"], metrics - known)
        for state in re.findall(r'state="(\w+)"', rule["query"]):
            assert state in {*WorkspaceState, "Failed"}, rule["name"]
    return True


def test_vllm_s_metrics_are_those_of_the_installed_release() -> None:
    import importlib.util

    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    source = "".join(file.read_text() for file in Path(spec.submodule_search_locations[0]).glob("v1/metrics/*.py"))
    assert vllm_names()
    for name in vllm_names():
        assert f'name="{name}"' in source, name
