"""How much machine a Workspace needs: the one result that validation, node planning, workload and status share."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from kaito_api.workspace_status import CostEstimate, EnginePlan, MemoryPlan, PlannedGPU, PlanStatus
from workspace_controller.engines import Engine
from workspace_controller.estimator import Gpus
from workspace_controller.memory import Lora, MemoryBudget, context_that_fits
from workspace_controller.parallelism import Parallelism
from workspace_controller.presets import Preset
from workspace_controller.skus import Sku

_MIB = 1024**2


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """The plan's numbers. For template inference and unknown GPUs the fields about the model are empty."""

    node_count: int
    """Nodes that the Workspace needs: what status.targetNodeCount says."""
    instance_type: str = ""
    """Canonical SKU name, "" for nodes that the user brings."""
    sku: Sku | None = None
    preset: Preset | None = None
    gpus: Gpus | None = None
    """GPUs of one node. None where the user brings the nodes and none is there to look at: keep what runs, plan no
    workload."""
    engine: Engine | None = None
    parallelism: Parallelism = Parallelism()
    lora: Lora = Lora()
    memory: MemoryBudget | None = None
    max_model_len: int | None = None
    """Context that the user insists on; None for the largest that fits."""
    disk_gib: int = 1024
    """Disk of each node."""
    suggestion: str = ""
    """For nodes that the user brings: the cheapest SKU that would do, in words."""
    notes: tuple[str, ...] = ()
    """What was decided differently from the defaults, in words (for status and events)."""

    @property
    def gpus_per_node(self) -> int:
        """GPUs that one pod asks for."""
        return self.gpus.count if self.gpus is not None else 1

    @property
    def context(self) -> int:
        """Tokens of context that one request may have: the user's word, else the model's limit or what fits."""
        if self.max_model_len is not None or self.preset is None:
            return self.max_model_len or 0
        if self.memory is None:
            return self.preset.context_length
        return context_that_fits(self.preset, self.memory.kv_tokens)


def plan_status(sizing: Sizing, engine_image: str, generation: int) -> PlanStatus:
    """Return the plan as `status.plan` shows it. `generation` is that of the Workspace that was planned."""
    return PlanStatus(
        observed_generation=generation,
        model=sizing.preset.name if sizing.preset else "",
        instance_type=sizing.instance_type,
        nodes=sizing.node_count,
        disk_gib=sizing.disk_gib,
        gpu=_gpu(sizing.gpus),
        memory=_memory(sizing.memory),
        engine=_engine(sizing, engine_image),
        cost=_cost(sizing),
        message="; ".join(sizing.notes),
    )


def _gpu(gpus: Gpus | None) -> PlannedGPU | None:
    if gpus is None:
        return None
    return PlannedGPU(
        model=gpus.model,
        count=gpus.count,
        memory_mib=gpus.memory_bytes // _MIB,
        compute_capability=str(gpus.capability or ""),
    )


def _memory(memory: MemoryBudget | None) -> MemoryPlan | None:
    if memory is None:
        return None
    return MemoryPlan(
        usable_mib=memory.usable // _MIB,
        weights_mib=memory.weights // _MIB,
        overhead_mib=memory.overhead // _MIB,
        adapters_mib=memory.adapters // _MIB,
        kv_cache_mib=memory.kv_cache // _MIB,
    )


def _engine(sizing: Sizing, image: str) -> EnginePlan | None:
    if sizing.engine is None:
        return None
    return EnginePlan(
        variant=sizing.engine.name,
        image=image,
        dtype=sizing.engine.dtype_bound,
        max_model_len=sizing.context,
        tensor_parallel_size=sizing.parallelism.tensor,
        pipeline_parallel_size=sizing.parallelism.pipeline,
        max_loras=sizing.lora.slots,
        max_lora_rank=sizing.lora.rank,
    )


def _cost(sizing: Sizing) -> CostEstimate | None:
    if sizing.sku is None or sizing.sku.usd_per_hour is None:
        return None
    cost = (sizing.sku.usd_per_hour * sizing.node_count).quantize(Decimal("0.01"))
    return CostEstimate(per_hour=str(cost), as_of=sizing.sku.prices_as_of)
