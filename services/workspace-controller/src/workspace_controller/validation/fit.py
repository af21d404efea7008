"""The last rule: the model fits the machines. Its by-product is the sizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Node
from kaito_api.workspace import TuningMethod, Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.engines import Engine, choose_engine
from workspace_controller.estimator import Gpus
from workspace_controller.gpus import of_node, of_sku
from workspace_controller.inference_config import InferenceConfig
from workspace_controller.model_fit import Misfit, cheapest, fit_on_engine
from workspace_controller.options import Options
from workspace_controller.presets import GIB, Preset
from workspace_controller.selector import brought_nodes
from workspace_controller.settings import LoraDefaults, Settings
from workspace_controller.sizing import Sizing
from workspace_controller.tuning.memory import least_bytes, trains_on
from workspace_controller.validation.verdict import FieldError

_PATH: Final = "resource.instanceType"
_UNKNOWN_DISK_GIB: Final = 1024
"""For templates, whose model nobody has measured (KAITO)."""


def size(  # noqa: PLR0917 - spec, catalog, settings, then what was observed
    workspace: Workspace,
    catalog: Catalog,
    settings: Settings,
    options: Options,
    config: InferenceConfig,
    nodes: Sequence[Node] | None,
) -> Sizing | FieldError:
    """Size a Workspace whose fields are in order."""
    resource = workspace.resource
    assert resource is not None
    preset = _preset(workspace, catalog)
    sku = catalog.sku(resource.instance_type) if resource.instance_type else None
    brought = brought_nodes(workspace, nodes or ()) if not resource.instance_type else ()
    gpus = of_sku(sku) if sku is not None else _gpus_of(brought, catalog)
    base = Sizing(
        node_count=1 if workspace.tuning is not None else max(1, resource.count),
        instance_type=sku.name if sku is not None else resource.instance_type,
        sku=sku,
        preset=preset,
        gpus=gpus if gpus is not None or not resource.instance_type else Gpus(count=1),
        max_model_len=config.max_model_len,
        disk_gib=_disk(workspace, preset),
    )
    if preset is None:
        return base
    if workspace.tuning is not None:
        return _size_tuning(base, preset, workspace.tuning.method, catalog, settings, options)
    return _size_model(base, preset, catalog, settings, options)


def _size_model(
    base: Sizing, preset: Preset, catalog: Catalog, settings: Settings, options: Options
) -> Sizing | FieldError:
    lora = settings.lora if options.lora and preset.lora else LoraDefaults(slots=0)
    if base.gpus is None:
        suggestion = _suggestion(preset, catalog, base.max_model_len, lora, settings)
        return msgspec.structs.replace(base, node_count=1, suggestion=suggestion)
    gpus = base.gpus
    engine = choose_engine(catalog.engines, gpus.capability, settings.engine_override)
    if engine is None:
        return _lacks_gpu(base, gpus, catalog, settings)
    base = msgspec.structs.replace(base, engine=engine)
    if not gpus.memory_bytes:
        note = (
            f"memory of the GPUs is not known, so resource.count decides: {base.node_count} node(s), no fit was checked"
        )
        return msgspec.structs.replace(base, notes=(note,))
    fit = fit_on_engine(preset, gpus, engine, base.max_model_len, lora, bypass=options.bypass_checks)
    if isinstance(fit, Misfit):
        hint = _suggestion(preset, catalog, base.max_model_len, lora, settings)
        message = f"{fit.message}{f'; the cheapest that fits is {hint}' if hint else ''}"
        return FieldError(path=_PATH, reason=fit.reason, message=message)
    sized = msgspec.structs.replace(
        base, node_count=fit.nodes, parallelism=fit.parallelism, lora=fit.lora, memory=fit.memory, notes=fit.notes
    )
    return msgspec.structs.replace(
        sized, notes=(*fit.notes, *_unverified(engine), *_cheaper(sized, preset, catalog, lora, settings))
    )


def _size_tuning(  # noqa: PLR0917 - what is sized, then spec, catalog, settings and annotations
    base: Sizing, preset: Preset, method: str, catalog: Catalog, settings: Settings, options: Options
) -> Sizing | FieldError:
    """Choose the build that trains, and check that the model can be trained on one of the GPUs."""
    if base.gpus is None:
        return base
    engine = choose_engine(catalog.engines, base.gpus.capability, settings.engine_override)
    if engine is None:
        return _lacks_gpu(base, base.gpus, catalog, settings)
    if not settings.tuning.images.get(engine.name, engine.tuner_image):
        message = f"there is no tuner for the build {engine.name}: choose another instance type, or set --tuner-images"
        return FieldError(path=_PATH, reason=Reason.ENGINE_LACKS_GPU, message=message)
    need = least_bytes(preset, method)
    have = base.gpus.memory_bytes
    if have and need > have and engine.needs_gpu and not options.bypass_checks:
        names = [sku.name for sku in catalog.skus if sku.memory_per_gpu >= need and trains_on(sku, catalog)]
        hint = f"; these hold it: {', '.join(names)}" if names else ""
        other = "; method qlora takes about a third of that" if method == TuningMethod.LORA else ""
        message = (
            f"training {preset.name} with {method} takes at least {need / GIB:.1f} GiB on each GPU, and a GPU of "
            f"{base.instance_type or 'these nodes'} has {have / GIB:.0f} GiB{hint}{other}"
        )
        return FieldError(path=_PATH, reason=Reason.INSTANCE_TYPE_TOO_SMALL, message=message)
    return msgspec.structs.replace(base, engine=engine, notes=_unverified(engine))


def _unverified(engine: Engine) -> tuple[str, ...]:
    return () if engine.verified else (f"engine build {engine.name}: {engine.note}",)


def _cheaper(
    sized: Sizing, preset: Preset, catalog: Catalog, lora: LoraDefaults, settings: Settings
) -> tuple[str, ...]:
    """Say it where several small machines cost more than twice what another type would: the count is KAITO's, not ours."""
    sku = sized.sku
    if sized.node_count == 1 or sku is None or sku.usd_per_hour is None:
        return ()
    best = cheapest(preset, catalog, sized.max_model_len, lora, settings.engine_override)
    cost = sku.usd_per_hour * sized.node_count
    if best is None or best[0].usd_per_hour is None or best[0].usd_per_hour * best[1] * 2 > cost:
        return ()
    name = _suggestion(preset, catalog, sized.max_model_len, lora, settings)
    return (f"{sized.node_count} nodes of {sku.name} cost about {cost:.2f} USD an hour; cheaper: {name}",)


def _disk(workspace: Workspace, preset: Preset | None) -> int:
    if preset is None:
        return _UNKNOWN_DISK_GIB
    if workspace.tuning is None or preset.tuning is None:
        return preset.disk_gib
    return max(preset.disk_gib, preset.tuning.disk_gib)


def _preset(workspace: Workspace, catalog: Catalog) -> Preset | None:
    block = workspace.inference or workspace.tuning
    return catalog.preset(block.preset.name) if block is not None and block.preset is not None else None


def _gpus_of(brought: Sequence[Node], catalog: Catalog) -> Gpus | None:
    """Return the GPUs of the first node that shows any; nodes that differ are told by the node plan."""
    found = (of_node(node, catalog) for node in brought)
    return next((gpus for gpus in found if gpus is not None), None)


def _suggestion(
    preset: Preset, catalog: Catalog, max_model_len: int | None, lora: LoraDefaults, settings: Settings
) -> str:
    best = cheapest(preset, catalog, max_model_len, lora, settings.engine_override)
    if best is None:
        return ""
    sku, count = best
    price = f" at about {sku.usd_per_hour * count:.2f} USD an hour" if sku.usd_per_hour is not None else ""
    return f"{sku.name} ({count} node{'s' if count > 1 else ''}{price})"


def _lacks_gpu(base: Sizing, gpus: Gpus, catalog: Catalog, settings: Settings) -> FieldError:
    if settings.engine_override:
        message = (
            f"the setting engine-override names {settings.engine_override!r}, which is no variant of the catalog: "
            + ", ".join(engine.name for engine in catalog.engines)
        )
        return FieldError(path=_PATH, reason=Reason.ENGINE_LACKS_GPU, message=message)
    builds = "; ".join(f"{engine.name} {_range(engine)}" for engine in catalog.engines if engine.needs_gpu)
    message = (
        f"no engine build runs on {gpus.model or 'these GPUs'} with compute capability {gpus.capability} ({builds}): choose "
        f"another instance type{f' than {base.instance_type}' if base.instance_type else ''}"
    )
    return FieldError(path=_PATH, reason=Reason.ENGINE_LACKS_GPU, message=message)


def _range(engine: Engine) -> str:
    upper = f"to {engine.max_compute_capability}" if engine.max_compute_capability else "and up"
    return f"has kernels for {engine.min_compute_capability} {upper}"


UNCHECKED = (
    f"resource.instanceType is not in the catalog and {labels.BYPASS_RESOURCE_CHECKS} is set: 1 GPU a node is assumed"
)
