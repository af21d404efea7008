"""The vLLM arguments of a plan, after the `--` of the model server's command line."""

from __future__ import annotations

from typing import Final

from kaito_api.workspace import Workspace
from workspace_controller.memory import memory_utilisation
from workspace_controller.naming import headless_service_name, pod_names
from workspace_controller.options import Options, PerformanceMode
from workspace_controller.sizing import Sizing

RENDEZVOUS_PORT: Final = 29500
MAX_CPU_LORAS: Final = 20
"""Adapters in host memory: ten may be named, and each may have an older version that drains. Fewer would let traffic
evict one whose folder is about to go, which ends the engine."""

Value = str | int | float | bool


def engine_args(workspace: Workspace, sizing: Sizing, options: Options) -> tuple[str, ...]:
    """Return the arguments, sorted; equal plans give equal command lines."""
    arguments: dict[str, Value] = {}
    modern = sizing.engine is None or sizing.engine.finds_context
    if sizing.max_model_len is None:
        arguments["max-model-len"] = "auto" if modern or not sizing.context else sizing.context
    if options.performance_mode is not PerformanceMode.BALANCED and modern:
        arguments["performance-mode"] = options.performance_mode.value
    arguments |= _lora(sizing) | _spread(sizing) | _group(workspace, sizing)
    if sizing.preset is not None:
        arguments |= sizing.preset.engine_args
    return tuple(_render(name, value) for name, value in sorted(arguments.items()))


def _lora(sizing: Sizing) -> dict[str, Value]:
    if not sizing.lora.slots:
        return {}
    return {
        "enable-lora": True,
        "max-cpu-loras": max(MAX_CPU_LORAS, sizing.lora.slots),
        "max-lora-rank": sizing.lora.rank,
        "max-loras": sizing.lora.slots,
    }


def _spread(sizing: Sizing) -> dict[str, Value]:
    """Sizes of the parallel groups.

    A build that computes on the CPU runs one process on each node, and compiles nothing: its image has no compiler.
    """
    arguments: dict[str, Value] = {}
    if sizing.engine is not None and not sizing.engine.needs_gpu:
        arguments["enforce-eager"] = True
        return arguments | ({"pipeline-parallel-size": sizing.node_count} if sizing.node_count > 1 else {})
    if sizing.gpus is not None and sizing.gpus.memory_bytes:
        arguments["gpu-memory-utilization"] = memory_utilisation(sizing.gpus)
    spread = sizing.parallelism
    if spread.tensor > 1:
        arguments["tensor-parallel-size"] = spread.tensor
    if spread.pipeline > 1:
        arguments["pipeline-parallel-size"] = spread.pipeline
    if spread.data > 1:
        # adapters are kept by the one API server; vLLM would start one for each copy
        arguments |= {"api-server-count": 1, "data-parallel-size": spread.data}
    return arguments


def _group(workspace: Workspace, sizing: Sizing) -> dict[str, Value]:
    """How the pods of several nodes find each other; kubelet puts the pod's index into the rank."""
    if sizing.node_count == 1:
        return {}
    name = workspace.metadata.name
    leader = f"{pod_names(name, 1)[0]}.{headless_service_name(name)}.{workspace.metadata.namespace}.svc"
    return {
        "distributed-executor-backend": "mp",
        "master-addr": leader,
        "master-port": RENDEZVOUS_PORT,
        "nnodes": sizing.node_count,
        "node-rank": "$(POD_INDEX)",
    }


def _render(name: str, value: Value) -> str:
    if value is True:
        return f"--{name}"
    if value is False:
        return f"--no-{name}"
    return f"--{name}={value}"
