"""What the engine is started with: the planner's arguments, the user's file and the contract of the pod, merged.

Pure. The user's file wins over the planner's arguments, except for keys that would break the contract with the
workspace-controller (Service, probes, adapters): those are refused by name, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from model_server import arguments
from model_server.arguments import ArgumentError, Arguments, OptionTable
from model_server.config_file import InferenceConfig
from model_server.dtype import Bound, Device, resolve
from model_server.exits import ExitCode, FatalError

_PROBES: Final = "the Service and the probes expect it as planned"
_NODES: Final = "the controller plans it with the nodes"
_ADAPTERS: Final = "adapters come from inference.adapters of the Workspace and change without a restart"
_WEIGHTS: Final = "the weights come from the preset"
_LOGS: Final = "the server's own logging feeds the Workspace's conditions"

REFUSED: Final[dict[str, str]] = {
    "model": _WEIGHTS,
    "revision": _WEIGHTS,
    "download-dir": _WEIGHTS,
    "hf-token": "a ConfigMap is no place for a secret",
    "api-key": "a ConfigMap is no place for a secret",
    "served-model-name": "clients and the Workspace's status know the model by its planned name",
    "host": _PROBES,
    "port": _PROBES,
    "uds": _PROBES,
    "root-path": _PROBES,
    "grpc": _PROBES,
    "ssl-keyfile": _PROBES,
    "ssl-certfile": _PROBES,
    "ssl-ca-certs": _PROBES,
    "ssl-cert-reqs": _PROBES,
    "headless": _NODES,
    "nnodes": _NODES,
    "node-rank": _NODES,
    "master-addr": _NODES,
    "master-port": _NODES,
    "api-server-count": "adapters and the queue limit are kept by one API process",
    "data-parallel-external-lb": _NODES,
    "data-parallel-hybrid-lb": _NODES,
    "enable-lora": "the annotation kaito.sh/lora of the Workspace switches it, so that the memory plan knows",
    "lora-modules": _ADAPTERS,
    "default-mm-loras": _ADAPTERS,
    "config": "this file is the configuration",
    "shutdown-timeout": "the server drains by itself within the pod's grace period",
    "logging-config": _LOGS,
    "log-config-file": _LOGS,
    "skip-tokenizer-init": "/chat and the chat completions need the tokenizer",
}
"""Options that a user's file may not set, and why."""

UNSAFE_ENVIRONMENT: Final = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE")
"""Variables that open routes with which a client can load any path or run code in the workers: always removed."""

ENVIRONMENT: Final = {
    # Spawned, not forked: a forked child would inherit the event loop, its sockets and CUDA.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Set for the engine, whatever the pod says."""

ENVIRONMENT_DEFAULTS: Final = {
    # An allow-list for every group of plugins; empty, it keeps vLLM's own adapter resolvers out.
    "VLLM_PLUGINS": "",
    "HF_HUB_OFFLINE": "1",
    # Answers to one request: OpenAI's own limit. vLLM's (16384) lets one request take every place for a long time.
    "VLLM_MAX_N_SEQUENCES": "128",
}
"""Set for the engine where the pod says nothing."""

CPU_ENVIRONMENT_DEFAULTS: Final = {
    # vLLM compiles some samplers (logprobs) even when told not to compile; the image has no compiler, and a request would kill
    # the engine.
    "TORCH_COMPILE_DISABLE": "1",
}
"""The same, for an engine on the CPU."""

CACHE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
"""Compiled kernels outlive the process, unlike everything else that the engine writes to its temporary folder."""

MIN_CPU_LORAS: Final = 12
"""Ten adapters (the API's limit) and two that are being drained: traffic must never evict a referenced adapter."""

_QUIET_OPTION: Final = "disable-access-log-for-endpoints"
_QUIET_ROUTES: Final = "/health,/readyz,/metrics"


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What the pod's command line says."""

    model: str
    served_model_name: str
    host: str
    port: int
    bound: Bound
    engine_arguments: tuple[str, ...]


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's argument list, and what deserves a line in the log."""

    argv: tuple[str, ...]
    dtype: str
    notes: tuple[str, ...]


def plan(
    planned: Planned, config: InferenceConfig, device: Device, table: OptionTable, weights_dtype: str
) -> LaunchPlan:
    """Merge everything into one launch. Raises FatalError(USAGE) for the command line, CONFIG_INVALID for the file."""
    try:
        merged = arguments.read(planned.engine_arguments, table)
    except ArgumentError as error:
        raise FatalError(ExitCode.USAGE, f"engine arguments after --: {error}") from error
    from_file = _from_file(config, table)
    notes = list(config.notes)
    for key, values in from_file.items():
        notes.extend(_override_note(merged, key, values))
        arguments.put(merged, key, values)
    dtype = resolve(planned.bound, _last(merged, "dtype"), device, weights_dtype)
    notes.extend(dtype.notes)
    fixed: Arguments = {
        "model": (planned.model,),
        "served-model-name": (planned.served_model_name,),
        "port": (str(planned.port),),
        "dtype": (dtype.name,),
    }
    if planned.host:
        fixed["host"] = (planned.host,)
    for key, values in fixed.items():
        arguments.put(merged, key, values)
    if _QUIET_OPTION in table:
        merged.setdefault(_QUIET_OPTION, (_QUIET_ROUTES,))
    _keep_adapters_in_memory(merged)
    return LaunchPlan(
        argv=tuple(arguments.write(merged, table)),
        dtype=dtype.name,
        notes=tuple(notes),
    )


def _from_file(config: InferenceConfig, table: OptionTable) -> Arguments:
    try:
        settings = arguments.from_mapping(config.vllm, table)
    except ArgumentError as error:
        raise FatalError(ExitCode.CONFIG_INVALID, f"inference_config.yaml: {error}") from error
    refused = sorted({name for key in settings if (name := _base_name(key)) in REFUSED})
    if refused:
        lines = "; ".join(f"{name} ({REFUSED[name]})" for name in refused)
        raise FatalError(
            ExitCode.CONFIG_INVALID, f"inference_config.yaml may not set {lines}. Remove it from the ConfigMap"
        )
    return settings


def _base_name(key: str) -> str:
    name = key.partition(".")[0]
    stripped = name.removeprefix("no-")
    return stripped if stripped in REFUSED else name


def _override_note(merged: Arguments, key: str, values: tuple[str, ...]) -> Sequence[str]:
    before = merged.get(key)
    if before is None or before == values:
        return ()
    return (f"inference_config.yaml sets {key} to {' '.join(values)} (planned: {' '.join(before)})",)


def _keep_adapters_in_memory(merged: Arguments) -> None:
    """Give the engine's host cache room for every adapter: an eviction makes it read files inside a step."""
    if "enable-lora" not in merged:
        return
    slots = int(_last(merged, "max-loras") or 1)
    wanted = max(MIN_CPU_LORAS, slots + 2, int(_last(merged, "max-cpu-loras") or 0))
    arguments.put(merged, "max-cpu-loras", (str(wanted),))


def _last(merged: Arguments, key: str) -> str:
    values = merged.get(key, ())
    return values[-1] if values else ""


def scratch_environment(folder: str) -> dict[str, str]:
    """Return the environment with which the engine's processes leave nothing outside of `folder`.

    vLLM never removes its sockets and rendezvous files. The path of a socket may have 107 characters, 37 of them its name.
    """
    return {"TMPDIR": folder, "VLLM_RPC_BASE_PATH": folder}
