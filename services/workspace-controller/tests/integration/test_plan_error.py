"""The engine of a Workspace on a real kube-apiserver reports what it has: compared with the plan once, whoever leads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.report import EngineReport, Report, encode
from kaito_api.resources import PODS, STATEFULSETS
from kaito_api.workspace_status import PlanStatus
from kubecore.client import Client
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

PRESET = "phi-3-mini-128k-instruct"
MANIFEST = f"""
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: phi}}
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector: {{matchLabels: {{apps: phi}}}}
inference:
  preset: {{name: {PRESET}}}
"""
BYTES_PER_TOKEN = 2 * 32 * 32 * 96 * 2
"""Keys and values of 32 layers with 32 heads of 96 numbers."""


def compared(registry: CollectorRegistry) -> dict[str, tuple[float, float]]:
    """By quantity: how often it was compared, and the sum of the ratios."""
    name = "kaito_workspace_plan_error_ratio"
    found: dict[str, dict[str, float]] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name in {f"{name}_count", f"{name}_sum"}:
                assert sample.labels["preset"] == PRESET
                found.setdefault(sample.labels["quantity"], {})[sample.name.removeprefix(f"{name}_")] = sample.value
    return {quantity: (parts["count"], parts["sum"]) for quantity, parts in found.items()}


async def plan_of(cluster: Any) -> PlanStatus | None:
    """The plan is told after the claim has been made."""
    return (await cluster.workspace("phi")).status.plan


async def says(cluster: Any, context: int, tokens: int) -> None:
    engine = EngineReport(dtype="bfloat16", max_model_len=context, kv_cache_tokens=tokens)
    said = encode(Report(state="Ready", at=datetime.now(UTC), engine=engine)).decode()
    note = {"metadata": {"annotations": {labels.report_annotation("model-server"): said}}}
    await cluster.client.patch(PODS, cluster.key("phi-0"), note)


async def turns(cluster: Any, *, ready: bool) -> None:
    await cluster.pod_status("phi-0", ready=ready)
    await cluster.statefulset_status("phi", ready=int(ready))
    await cluster.becomes("phi", "WorkspaceSucceeded", str(ready))


async def test_a_pod_that_serves_before_the_write_of_its_workload_is_answered_is_compared_too(
    cluster: Any, run_controller: Any
) -> None:
    registry, pod_serves = CollectorRegistry(), asyncio.Event()

    class LateAnswers(Client):
        """The apiserver's answers to written StatefulSets come late."""

        async def apply(self, res: Any, obj: Any, **options: Any) -> Any:
            written = await super().apply(res, obj, **options)
            if res is STATEFULSETS and not options.get("dry_run"):
                await pod_serves.wait()
            return written

    await cluster.apply(MANIFEST)
    async with run_controller(registry=registry, through=LateAnswers) as wired:
        (claim,) = await cluster.claimed("phi")
        node = await cluster.provision(claim)
        planned = await eventually(lambda: plan_of(cluster))
        tokens = planned.memory.kv_cache_mib * 2**20 // BYTES_PER_TOKEN
        await cluster.run_pod(await cluster.statefulset("phi"), node, ready=False)
        await says(cluster, planned.engine.max_model_len // 2, 2 * tokens)
        await cluster.pod_status("phi-0", ready=True)
        await cluster.statefulset_status("phi", ready=1)

        def seen() -> bool:
            pod, workload = (of.get(cluster.key(name)) for of, name in serving(wired.caches))
            return pod is not None and pod.ready and workload is not None and workload.status.ready_replicas == 1

        await eventually(seen)
        pod_serves.set()
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        once = {"context": (1, pytest.approx(0.5)), "kv_cache": (1, pytest.approx(2))}
        await eventually(lambda: compared(registry) == once)


def serving(caches: Any) -> list[tuple[Any, str]]:
    return [(caches.pods, "phi-0"), (caches.statefulsets, "phi")]


async def test_the_first_answer_is_compared_with_the_plan_and_no_later_one(cluster: Any, run_controller: Any) -> None:
    first, later = CollectorRegistry(), CollectorRegistry()
    await cluster.apply(MANIFEST)
    async with run_controller(registry=first):
        (claim,) = await cluster.claimed("phi")
        node = await cluster.provision(claim)
        planned = await eventually(lambda: plan_of(cluster))
        tokens = planned.memory.kv_cache_mib * 2**20 // BYTES_PER_TOKEN
        assert tokens > planned.engine.max_model_len > 4096, "the model's limit is less than all that fits"
        await cluster.run_pod(await cluster.statefulset("phi"), node, ready=False)
        await says(cluster, planned.engine.max_model_len // 2, 2 * tokens)
        assert compared(first) == {}, "nothing serves yet"
        await turns(cluster, ready=True)
        once = {"context": (1, pytest.approx(0.5)), "kv_cache": (1, pytest.approx(2))}
        await eventually(lambda: compared(first) == once, timeout=30)
        await turns(cluster, ready=False)
        await says(cluster, planned.engine.max_model_len, tokens)
        await turns(cluster, ready=True)
    assert compared(first) == once, "a restart of the pod is no second plan"
    async with run_controller(registry=later):
        await turns(cluster, ready=False)
        await turns(cluster, ready=True)
    assert compared(later) == {}, "another leader has nothing new to tell"
