"""What the plan predicted against what the pods reported: which quantities, of which Workspaces, and when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.core import Pod
from kaito_api.report import EngineReport, Report, encode
from kaito_api.workspace_status import (
    EnginePlan,
    MemoryPlan,
    PlanStatus,
    TuningStatus,
    WorkspaceState,
    WorkspaceStatus,
)
from workspace_controller.catalog import Catalog
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource
from workspace_controller.metrics import Metrics
from workspace_controller.observed import Observed
from workspace_controller.plan_error import LARGEST, PlanError, Quantity, plan_errors
from workspace_controller.tuning.memory import least_bytes

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PRESET = "phi-3-mini-128k-instruct"
PER_TOKEN_KIB = 384
"""Of that preset: 32 layers of 32 heads of 96 numbers, twice, 16 bits each."""
ROOM_MIB = 3750
PLANNED = ROOM_MIB * 1024 // PER_TOKEN_KIB
"""10,000 tokens, far less than the model's limit."""


def pod(said: EngineReport | None, name: str = "phi-0") -> Pod:
    notes = {}
    if said is not None:
        notes[labels.report_annotation("model-server")] = encode(Report(state="Ready", at=NOW, engine=said)).decode()
    return msgspec.convert({"metadata": {"name": name, "annotations": notes}}, Pod)


def said(context: int = PLANNED, tokens: int = PLANNED) -> EngineReport:
    return EngineReport(max_model_len=context, kv_cache_tokens=tokens)


def plan(variant: str = "gpu", room: int = ROOM_MIB, **engine: Any) -> PlanStatus:
    return PlanStatus(engine=EnginePlan(variant=variant, **engine), memory=MemoryPlan(kv_cache_mib=room))


def config(text: str) -> ConfigSource:
    return ConfigSource(found=True, data={CONFIG_KEY: text})


def serving(
    make: Any,
    catalog: Catalog,
    *reports: EngineReport | None,
    shown: PlanStatus | None = None,
    before: str = "Pending",
    after: str = "Ready",
    name: str = PRESET,
    config: ConfigSource | None = None,
) -> dict[str, float]:
    changes = f"{{inference: {{preset: {{name: {name}}}}}, status: {{state: '{before}'}}}}"
    pods = tuple(pod(report, f"phi-{number}") for number, report in enumerate(reports))
    observed = Observed(workspace=make(changes), pods=pods, config=config)
    status = WorkspaceStatus(state=WorkspaceState(after), plan=shown or plan())
    found = list(plan_errors(observed, status, catalog))
    assert {error.preset for error in found} <= {name}
    return {error.quantity: error.ratio for error in found}


def test_the_planned_room_is_what_is_compared(workspace: Any, catalog: Catalog) -> None:
    assert PLANNED == 10_000
    found = serving(workspace, catalog, said(context=9_000, tokens=12_500))
    assert found == {Quantity.CONTEXT: 0.9, Quantity.KV_CACHE: 1.25}


def test_a_gpu_of_a_group_holds_its_share_of_each_token(workspace: Any, catalog: Catalog) -> None:
    """Half of the heads and a quarter of the layers: eight times as many tokens in the same room."""
    shown = plan(tensor_parallel_size=2, pipeline_parallel_size=4)
    assert serving(workspace, catalog, said(80_000, 40_000), shown=shown) == {
        Quantity.CONTEXT: 1.0,
        Quantity.KV_CACHE: 0.5,
    }


def test_no_context_is_longer_than_the_model_s(workspace: Any, catalog: Catalog) -> None:
    found = serving(workspace, catalog, said(4_096, 10_000), name="phi-3-mini-4k-instruct")
    assert found == {Quantity.CONTEXT: 1.0, Quantity.KV_CACHE: 1.0}


@pytest.mark.parametrize(
    ("case", "quantities"),
    [
        ({"before": "Ready"}, set()),
        ({"before": "NotReady"}, set()),
        ({"before": ""}, {"context", "kv_cache"}),
        ({"after": "NotReady"}, set()),
        ({"after": "Pending"}, set()),
        # a build for CPUs has no memory of a GPU, but promised the same context
        ({"shown": plan("cpu")}, {"context"}),
        # a build that cannot find its context is given one
        ({"shown": plan("gpu-sm70")}, {"kv_cache"}),
        ({"shown": plan("another")}, set()),
        ({"shown": PlanStatus()}, set()),
        ({"shown": PlanStatus(engine=EnginePlan(variant="gpu"))}, set()),
        # planned although it does not fit (bypass-resource-checks)
        ({"shown": plan(room=-100)}, set()),
        ({"config": config("vllm: {max-model-len: 9000}")}, {"kv_cache"}),
        ({"config": config("vllm: {max_model_len: 9k}")}, {"kv_cache"}),
        ({"config": config("vllm: {seed: 1}")}, {"context", "kv_cache"}),
        ({"config": ConfigSource(found=True)}, {"context", "kv_cache"}),
        ({"name": "no-such-model"}, set()),
    ],
)
def test_what_is_compared_and_when(
    case: dict[str, Any], quantities: set[str], workspace: Any, catalog: Catalog
) -> None:
    assert set(serving(workspace, catalog, said(), **case)) == quantities


@pytest.mark.parametrize(
    ("reports", "found"),
    [
        ([], {}),
        ([None], {}),
        # a server of a release that does not report its cache
        ([said(tokens=0)], {"context": 1.0}),
        # the first pod's word counts: the engine of several nodes speaks through it
        ([None, said(5_000, 5_000)], {"context": 0.5, "kv_cache": 0.5}),
        ([said(), said(1, 1)], {"context": 1.0, "kv_cache": 1.0}),
        ([said(2**62, 2**62)], {"context": LARGEST, "kv_cache": LARGEST}),
    ],
)
def test_what_the_pods_say(
    reports: list[EngineReport | None], found: dict[str, float], workspace: Any, catalog: Catalog
) -> None:
    assert serving(workspace, catalog, *reports) == found


@pytest.mark.parametrize(
    ("variant", "peak", "before", "after", "ratio"),
    [
        ("gpu", 1.5, "Running", "Succeeded", 1.5),
        ("gpu-sm70", 0.75, "Running", "Succeeded", 0.75),
        ("cpu", 1.5, "Running", "Succeeded", None),
        ("gpu", 0, "Running", "Succeeded", None),
        ("gpu", 1.5, "Running", "Failed", None),
        ("gpu", 1.5, "Succeeded", "Succeeded", None),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_training_memory(
    variant: str,
    peak: float,
    before: str,
    after: str,
    ratio: float | None,
    method: str,
    workspace: Any,
    catalog: Catalog,
) -> None:
    preset = catalog.preset(PRESET)
    assert preset is not None
    tuning = f"{{preset: {{name: {PRESET}}}, method: {method}}}"
    observed = Observed(workspace=workspace(f"{{inference: null, tuning: {tuning}, status: {{state: {before}}}}}"))
    bytes_ = int(peak * least_bytes(preset, method))
    status = WorkspaceStatus(
        state=after, plan=PlanStatus(engine=EnginePlan(variant=variant)), tuning=TuningStatus(peak_memory_bytes=bytes_)
    )
    found = {error.quantity: error.ratio for error in plan_errors(observed, status, catalog)}
    assert found == ({} if ratio is None else {Quantity.TRAINING_MEMORY: pytest.approx(ratio, abs=1e-6)})


def test_the_metric_keeps_the_sum_and_one_series_for_each_quantity_and_model() -> None:
    registry = CollectorRegistry()
    errors = [PlanError(Quantity.KV_CACHE, "phi", ratio) for ratio in (0.5, 1.0)]
    Metrics(registry).compared([*errors, PlanError(Quantity.CONTEXT, "phi", 1.0)])
    name, where = "kaito_workspace_plan_error_ratio", {"quantity": "kv_cache", "preset": "phi"}
    assert registry.get_sample_value(f"{name}_sum", where) == 1.5
    assert registry.get_sample_value(f"{name}_bucket", {**where, "le": "0.95"}) == 1
    assert registry.get_sample_value(f"{name}_bucket", {**where, "le": "1.0"}) == 2
    assert registry.get_sample_value(f"{name}_count", {**where, "quantity": "context"}) == 1
