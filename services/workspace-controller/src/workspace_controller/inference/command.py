"""Command lines of the two containers, word by word as the model server expects them (no shell)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kaito_api.workspace import Workspace
from workspace_controller.inference.engine_args import engine_args
from workspace_controller.inference.weights import MOUNT_PATH, Weights
from workspace_controller.inference_config import CONFIG_KEY
from workspace_controller.options import Options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing

HTTP_PORT: Final = 5000
CONFIG_MOUNT: Final = "/mnt/config"
ADAPTERS_MOUNT: Final = "/mnt/adapter"
API_KEYS_MOUNT: Final = "/mnt/api-keys"
GRACE_SECONDS: Final = 120
"""terminationGracePeriodSeconds of the pod."""
DRAIN_SECONDS: Final = 90
"""Longest wait for running requests; the rest of the grace period belongs to the engine's own shutdown."""
_PROGRAM: Final = "model-server"


def fetch_command(
    workspace: Workspace,
    weights: Weights,
    max_rank: int = 0,
    plain_http_hosts: Iterable[str] = (),
    trusted_realms: Iterable[str] = (),
) -> list[str]:
    """Return the command of the init container that pulls the weights.

    With `max_rank` above 0 it also looks at the adapters, whose registries may be among `plain_http_hosts`.
    """
    command = [_PROGRAM, "fetch", weights.source, "--to", MOUNT_PATH, "--workspace", str(workspace.metadata.key)]
    command += _repeated("--plain-http", sorted({*weights.plain_http_hosts, *plain_http_hosts}))
    command += _repeated("--trust-realm", sorted(trusted_realms))
    if max_rank:
        command += ["--max-lora-rank", str(max_rank)]
    return command + _repeated("--pull-secret", weights.pull_secrets)


def serve_command(
    workspace: Workspace, sizing: Sizing, settings: Settings, options: Options, *, volume_adapters: bool
) -> list[str]:
    """Return the command of the container that serves. `volume_adapters`: some adapters are mounted as volumes."""
    assert workspace.inference is not None
    assert sizing.preset is not None
    assert sizing.engine is not None
    command = [_PROGRAM, "serve", "--model", MOUNT_PATH, "--served-model-name", sizing.preset.name]
    command += ["--workspace", str(workspace.metadata.key), "--port", str(HTTP_PORT)]
    if workspace.inference.config:
        command += ["--config", f"{CONFIG_MOUNT}/{CONFIG_KEY}"]
    command += ["--dtype-bound", sizing.engine.dtype_bound, "--architecture", sizing.preset.architecture]
    command += ["--drain-seconds", str(DRAIN_SECONDS)]
    command += _repeated("--plain-http", sorted(settings.plain_http_hosts))
    command += _repeated("--trust-realm", sorted(settings.trusted_realms))
    if volume_adapters:
        command += ["--adapters-dir", ADAPTERS_MOUNT]
    if options.api_key_secret:
        command += ["--api-keys-dir", API_KEYS_MOUNT]
    return [*command, "--", *engine_args(workspace, sizing, options)]


def _repeated(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
