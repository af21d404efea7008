"""Status of a Workspace: what the controller has found, planned and reached.

Decimals (costs, losses, rates) are strings in plain decimal notation: a float does not survive every client unchanged.
Sizes on a GPU are MiB, files and transfers are bytes, durations say their unit in their name. Fields with an enum are
plain strings, so that a status written by another release still decodes: compare them with the StrEnums.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from kaito_api.meta import Condition


class WorkspaceState(StrEnum):
    """One word for the whole Workspace. Running, Succeeded and Failed are for tuning."""

    PENDING = "Pending"
    READY = "Ready"
    NOT_READY = "NotReady"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Metric(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One measured figure and how it was measured."""

    value: str = ""
    unit: str = ""
    description: str = ""
    config: dict[str, str] = {}


class Performance(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of the benchmark, by metric name."""

    metrics: dict[str, Metric] = {}


class AdapterState(StrEnum):
    """Life of one adapter version in the engine."""

    PENDING = "Pending"
    PULLING = "Pulling"
    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"
    DRAINING = "Draining"


class AdapterStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What serves under one adapter's name. `digest` is the manifest that is loaded, whatever the tag says now.

    `pods` have reported at all, `ready_pods` of them hold the adapter as the spec wants it.
    """

    name: str
    state: str = ""
    image: str = ""
    digest: str = ""
    strength: str = ""
    reason: str = ""
    message: str = ""
    load_milliseconds: int = 0
    pods: int = 0
    ready_pods: int = 0


class PlannedGPU(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The GPUs of one planned node."""

    model: str = ""
    count: int = 0
    memory_mib: int = msgspec.field(name="memoryMiB", default=0)
    compute_capability: str = ""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where the memory of each GPU goes, in MiB: usable = weights + overhead + adapters + KV cache."""

    usable_mib: int = msgspec.field(name="usableMiB", default=0)
    weights_mib: int = msgspec.field(name="weightsMiB", default=0)
    overhead_mib: int = msgspec.field(name="overheadMiB", default=0)
    adapters_mib: int = msgspec.field(name="adaptersMiB", default=0)
    kv_cache_mib: int = msgspec.field(name="kvCacheMiB", default=0)


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The engine build that was chosen and how it will be started."""

    variant: str = ""
    image: str = ""
    dtype: str = ""
    max_model_len: int = 0
    tensor_parallel_size: int = 0
    pipeline_parallel_size: int = 0
    max_loras: int = 0
    max_lora_rank: int = 0


class CostEstimate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Indicative price of all planned nodes, from the catalog of the day `as_of`; no bill."""

    per_hour: str = ""
    currency: str = "USD"
    as_of: str = ""


class PlanStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the controller decided, with the numbers behind it."""

    observed_generation: int = 0
    model: str = ""
    instance_type: str = ""
    nodes: int = 0
    disk_gib: int = msgspec.field(name="diskGiB", default=0)
    gpu: PlannedGPU | None = None
    memory: MemoryPlan | None = None
    engine: EnginePlan | None = None
    cost: CostEstimate | None = None
    message: str = ""


class TuningOutput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The trained adapter, once it has been pushed."""

    image: str = ""
    digest: str = ""
    size_bytes: int = 0


class TuningState(StrEnum):
    """Where a tuning run stands. The last three are final."""

    PENDING = "Pending"
    CHECKING = "Checking"
    FETCHING = "Fetching"
    TRAINING = "Training"
    SAVING = "Saving"
    PUSHING = "Pushing"
    DONE = "Done"
    DRY_RUN_DONE = "DryRunDone"
    FAILED = "Failed"


class TuningStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Progress and result of a tuning run. `attempt` counts pods, from 1; `checkpoint` is the last whole one.

    `run` says which request it is about: digests of the spec's tuning part and of its configuration. `progress` is the
    printer column.
    """

    run: str = ""
    state: str = ""
    progress: str = ""
    message: str = ""
    attempt: int = 0
    step: int = 0
    total_steps: int = 0
    epoch: str = ""
    loss: str = ""
    eval_loss: str = ""
    tokens_per_second: str = ""
    eta_seconds: int | None = None
    peak_memory_bytes: int = 0
    checkpoint: str = ""
    output: TuningOutput | None = None
    updated_at: datetime | None = None


class Phase(StrEnum):
    """Names of the phases that the controller times. Inference: Nodes, Images, Weights, Engine."""

    NODES = "Nodes"
    IMAGES = "Images"
    WEIGHTS = "Weights"
    ENGINE = "Engine"
    DATA = "Data"
    TRAINING = "Training"
    PACKAGING = "Packaging"


class PhaseStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """When a phase began and ended; no end means that it goes on."""

    name: str
    started_at: datetime
    finished_at: datetime | None = None


class WorkspaceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Written by the workspace-controller only. `worker_nodes` is sorted; `conditions` has one entry a type."""

    worker_nodes: list[str] = []
    state: str = ""
    target_node_count: int = 0
    conditions: list[Condition] = []
    performance: Performance | None = None
    adapters: list[AdapterStatus] = []
    plan: PlanStatus | None = None
    tuning: TuningStatus | None = None
    phases: list[PhaseStatus] = []
