"""Pure: how far what the plan predicted is from what came true, read once when a Workspace reaches its aim.

The prediction is what `status.plan` says, the truth is what the pods reported. Nothing is compared where the two are not
about the same thing: a build that computes on CPUs lives in other memory than the GPU that was planned; a context that the
user named, or that the planner gave to the engine, comes true by itself; and a run that ended for want of memory never
tells how much it wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from kaito_api.workspace import Workspace
from kaito_api.workspace_status import PlanStatus, WorkspaceStatus
from workspace_controller.catalog import Catalog
from workspace_controller.engines import Engine
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource, InferenceConfig, parse_config
from workspace_controller.journey import first_success
from workspace_controller.memory import context_that_fits
from workspace_controller.observed import Observed
from workspace_controller.presets import Preset
from workspace_controller.status.facts import engine_report
from workspace_controller.tuning.memory import least_bytes

_MIB: Final = 1024**2
LARGEST: Final = 100.0
"""A pod can report any number; one wild report must not drown all others in the sum."""


class Quantity(StrEnum):
    """What is compared."""

    CONTEXT = "context"
    """Tokens of context of one request, where the engine finds the longest that fits."""
    KV_CACHE = "kv_cache"
    """Tokens that the KV cache of one engine holds."""
    TRAINING_MEMORY = "training_memory"
    """Most bytes that torch had allocated on a GPU, over the least that the plan reckons with."""


class PlanError(NamedTuple):
    """One comparison: `ratio` is what came true over what was predicted, 1 where the plan was right."""

    quantity: Quantity
    preset: str
    """Its name in the catalog, whatever the user calls it."""
    ratio: float


def plan_errors(observed: Observed, after: WorkspaceStatus, catalog: Catalog) -> Iterator[PlanError]:
    """Yield the comparisons for a Workspace whose status, which has just been written, reaches its aim now.

    Nothing at any other time. A tuning Workspace reaches it once for each run, another once in its life.
    """
    workspace = observed.workspace
    preset = _preset(workspace, catalog)
    engine = _engine(after.plan, catalog)
    if preset is None or engine is None or not first_success(workspace.status, after):
        return
    if workspace.tuning is not None:
        found = _training(workspace.tuning.method, preset, engine, after)
    else:
        found = _serving(observed, preset, engine, after.plan)
    for quantity, predicted, real in found:
        if predicted > 0 and real > 0:
            yield PlanError(quantity, preset.name, min(real / predicted, LARGEST))


def _training(
    method: str, preset: Preset, engine: Engine, after: WorkspaceStatus
) -> Iterator[tuple[Quantity, int, int]]:
    if engine.needs_gpu and after.tuning is not None:
        yield Quantity.TRAINING_MEMORY, least_bytes(preset, method), after.tuning.peak_memory_bytes


def _serving(
    observed: Observed, preset: Preset, engine: Engine, plan: PlanStatus | None
) -> Iterator[tuple[Quantity, int, int]]:
    said = engine_report(observed.pods)
    if said is None or plan is None or plan.memory is None or plan.engine is None:
        return
    per_token = preset.shape.kv_bytes_per_token(
        tensor=max(1, plan.engine.tensor_parallel_size), pipeline=max(1, plan.engine.pipeline_parallel_size)
    )
    tokens = max(0, plan.memory.kv_cache_mib) * _MIB // per_token
    if engine.finds_context and _leaves_context_open(observed.config):
        yield Quantity.CONTEXT, context_that_fits(preset, tokens), said.max_model_len
    if engine.needs_gpu:
        yield Quantity.KV_CACHE, tokens, said.kv_cache_tokens


def _leaves_context_open(config: ConfigSource | None) -> bool:
    """Whether the user's configuration names no context."""
    if config is None:
        return True
    parsed = parse_config(config.data.get(CONFIG_KEY, ""))
    return isinstance(parsed, InferenceConfig) and parsed.max_model_len is None


def _preset(workspace: Workspace, catalog: Catalog) -> Preset | None:
    block = workspace.inference or workspace.tuning
    return catalog.preset(block.preset.name) if block is not None and block.preset is not None else None


def _engine(plan: PlanStatus | None, catalog: Catalog) -> Engine | None:
    variant = plan.engine.variant if plan is not None and plan.engine is not None else ""
    return next((engine for engine in catalog.engines if engine.name == variant), None)
