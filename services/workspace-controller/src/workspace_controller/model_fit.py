"""Whether a preset fits the GPUs, on how many nodes and how: the estimator's count, then what the engine really needs."""

from __future__ import annotations

import msgspec

from kaito_api.conditions import Reason
from workspace_controller.catalog import Catalog
from workspace_controller.engines import Engine, choose_engine
from workspace_controller.estimator import DEFAULT_CONTEXT, Gpus, TooSmall, estimate_nodes
from workspace_controller.gpus import of_sku
from workspace_controller.memory import Lora, MemoryBudget, budget, fit_lora
from workspace_controller.parallelism import Parallelism, choose_parallelism
from workspace_controller.presets import GIB, Preset
from workspace_controller.settings import LoraDefaults
from workspace_controller.skus import Sku


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How the model is placed."""

    nodes: int
    parallelism: Parallelism
    lora: Lora
    memory: MemoryBudget
    notes: tuple[str, ...] = ()


class Misfit(msgspec.Struct, frozen=True, kw_only=True):
    """Why the model cannot be placed, with the numbers."""

    reason: Reason
    message: str


def fit_model(
    preset: Preset, gpus: Gpus, max_model_len: int | None, lora: LoraDefaults, *, bypass: bool = False
) -> Fit | Misfit:
    """Place `preset` on nodes with `gpus` (memory known). `lora` with 0 slots plans no adapters.

    `bypass` turns the checks that go beyond KAITO's estimator into notes.
    """
    context = max_model_len or min(DEFAULT_CONTEXT, preset.context_length)
    nodes = estimate_nodes(preset.weights_bytes, preset.shape.kv_bytes_per_token(), gpus, context)
    if isinstance(nodes, TooSmall):
        if not bypass:
            return _too_small(preset, gpus, nodes, context)
        nodes = 1
    parallelism = choose_parallelism(preset, gpus, nodes)
    if parallelism is None:
        message = (
            f"{preset.name} would be spread over {nodes} nodes of {gpus.count} GPU(s), more stages than its "
            f"{preset.shape.layers} layers: choose an instance type with larger GPUs"
        )
        return Misfit(reason=Reason.INSTANCE_TYPE_TOO_SMALL, message=message)
    slots = fit_lora(preset, gpus, parallelism, lora, context) if lora.slots else Lora()
    memory = budget(preset, gpus, parallelism, slots)
    if memory.kv_tokens < context and (max_model_len is not None or memory.kv_cache <= 0) and not bypass:
        return _no_room_for_context(preset, gpus, memory, context, parallelism)
    return Fit(
        nodes=nodes,
        parallelism=parallelism,
        lora=slots,
        memory=memory,
        notes=(*_lora_notes(slots, lora), *_parallel_notes(preset, parallelism, gpus)),
    )


def fit_on_engine(
    preset: Preset, gpus: Gpus, engine: Engine, max_model_len: int | None, lora: LoraDefaults, *, bypass: bool = False
) -> Fit | Misfit:
    """Place `preset` as `fit_model` does, and refuse what the engine build cannot do."""
    fit = fit_model(preset, gpus, max_model_len, lora, bypass=bypass)
    if isinstance(fit, Misfit) or fit.nodes == 1 or engine.spans_nodes:
        return fit
    message = (
        f"{preset.name} with its {preset.weights_gib:g} GiB of weights needs {fit.nodes} nodes with {gpus.count} GPU(s) of "
        f"{_gib(gpus.memory_bytes)}, and the engine build for these GPUs, {engine.name} (vLLM {engine.vllm}), cannot span "
        "nodes: choose an instance type with more or larger GPUs"
    )
    return Misfit(reason=Reason.INSTANCE_TYPE_TOO_SMALL, message=message)


def cheapest(
    preset: Preset, catalog: Catalog, max_model_len: int | None, lora: LoraDefaults, override: str
) -> tuple[Sku, int] | None:
    """Return the SKU on which `preset` costs least, and the nodes it takes there.

    SKUs without a price come last, by total GPU memory. None where nothing in the catalog fits.
    """
    candidates: list[tuple[tuple[bool, float, int, str], Sku, int]] = []
    for sku in catalog.skus:
        engine = choose_engine(catalog.engines, sku.capability, override)
        if engine is None:
            continue
        fit = fit_on_engine(preset, of_sku(sku), engine, max_model_len, lora)
        if isinstance(fit, Fit):
            price = float(sku.usd_per_hour or 0) * fit.nodes
            rank = (sku.usd_per_hour is None, price, sku.gpu_memory_gib * fit.nodes, sku.name)
            candidates.append((rank, sku, fit.nodes))
    if not candidates:
        return None
    _, sku, nodes = min(candidates, key=lambda candidate: candidate[0])
    return sku, nodes


def _too_small(preset: Preset, gpus: Gpus, numbers: TooSmall, context: int) -> Misfit:
    message = (
        f"{preset.name} with a context of {context} tokens reserves {_gib(numbers.reserved_bytes)} on each GPU beside its "
        f"{preset.weights_gib:g} GiB of weights, but a GPU of {_gib(gpus.memory_bytes)} offers only "
        f"{_gib(numbers.available_bytes)}: choose an instance type with larger GPUs, or a smaller max-model-len in the config"
    )
    return Misfit(reason=Reason.INSTANCE_TYPE_TOO_SMALL, message=message)


def _no_room_for_context(
    preset: Preset, gpus: Gpus, memory: MemoryBudget, context: int, parallelism: Parallelism
) -> Misfit:
    held = memory.kv_cache // preset.shape.kv_bytes_per_token(tensor=parallelism.tensor, pipeline=parallelism.pipeline)
    message = (
        f"of {_gib(memory.usable)} usable on each {_gib(gpus.memory_bytes)} GPU, {preset.name} takes {_gib(memory.weights)} for "
        f"weights and {_gib(memory.overhead)} for the engine, which leaves room for {max(0, held)} tokens of context, not "
        f"{context}: choose an instance type with larger GPUs, or a smaller max-model-len in the config"
    )
    return Misfit(reason=Reason.INSTANCE_TYPE_TOO_SMALL, message=message)


def _lora_notes(planned: Lora, wanted: LoraDefaults) -> tuple[str, ...]:
    if planned.slots == wanted.slots and (planned.rank == wanted.rank or not wanted.slots):
        return ()
    if not planned.slots:
        return ("adapters are off: the GPUs have no memory left for a single slot",)
    return (
        f"adapters reduced to {planned.slots} slot(s) of rank {planned.rank} (wanted {wanted.slots} of rank {wanted.rank}) "
        "to leave memory for the context",
    )


def _parallel_notes(preset: Preset, parallelism: Parallelism, gpus: Gpus) -> tuple[str, ...]:
    if parallelism.data > 1 or parallelism.tensor == gpus.count:
        return ()
    return (
        f"tensor parallel {parallelism.tensor} instead of {gpus.count}: {preset.shape.attention_heads} attention heads with "
        f"{preset.shape.kv_heads} key-value heads do not divide by {gpus.count}",
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
