"""Command lines of the Job's containers, word by word (no shell)."""

from __future__ import annotations

from collections.abc import Sequence

from kaito_api.workspace import Workspace
from workspace_controller.inference.weights import MOUNT_PATH
from workspace_controller.options import Options
from workspace_controller.settings import Settings
from workspace_controller.sizing import Sizing
from workspace_controller.tuning.checkpoints import checkpoint_image
from workspace_controller.tuning.config import CONFIG_KEY
from workspace_controller.tuning.steps import (
    CHECK,
    CHECK_HOLD_SECONDS,
    CHECKPOINT_SECONDS,
    CONFIG_MOUNT,
    DATA_MOUNT,
    DATA_PATH,
    KEY_FILE,
    KEY_MOUNT,
    METRICS_PORT,
    PACKAGER,
    RESULTS_MOUNT,
    SECRET_MOUNT,
    WORK_MOUNT,
)


def check_command(workspace: Workspace, settings: Settings, options: Options) -> list[str]:
    """Return the command that proves push rights, and that the result can be signed where that is wanted."""
    command = ["adapter-packager", "check", _output_image(workspace), *_packager_flags(workspace, settings, CHECK)]
    return [*command, "--hold", str(CHECK_HOLD_SECONDS), *_sign_flags(options)]


def push_command(workspace: Workspace, sizing: Sizing, settings: Settings, options: Options) -> list[str]:
    """Return the command that packs and pushes the result."""
    assert sizing.preset is not None
    hold = settings.tuning.push_hold_seconds if options.push_hold_seconds is None else options.push_hold_seconds
    command = ["adapter-packager", "push", RESULTS_MOUNT, _output_image(workspace)]
    command += _packager_flags(workspace, settings, PACKAGER)
    command += ["--hold", str(hold), "--base-model", sizing.preset.name, "--metrics-port", str(METRICS_PORT)]
    return [*command, *_sign_flags(options)]


def data_command(workspace: Workspace, settings: Settings) -> list[str]:
    """Return the command that brings a data set from an image."""
    assert workspace.tuning is not None
    assert workspace.tuning.input is not None
    image = workspace.tuning.input.image
    command = ["model-server", "fetch", f"oci://{image}#{DATA_PATH}", "--data", "--to", DATA_MOUNT]
    command += ["--workspace", str(workspace.metadata.key)]
    command += _repeated("--plain-http", sorted(settings.plain_http_hosts & {image.partition("/")[0]}))
    command += _repeated("--trust-realm", sorted(settings.trusted_realms))
    return command + _repeated("--pull-secret", sorted(set(workspace.tuning.input.image_pull_secrets)))


def tuner_command(workspace: Workspace, sizing: Sizing, settings: Settings, options: Options, *, run: str) -> list[str]:
    """Return the command that trains. `run` is WORKSPACE UID/REQUEST: what was finished under that name is not made again."""
    tuning = workspace.tuning
    assert tuning is not None
    assert tuning.input is not None
    assert sizing.preset is not None
    command = ["tuner", "run", "--model", MOUNT_PATH, "--base-model", sizing.preset.name, "--method", tuning.method]
    if tuning.config:
        command += ["--config", f"{CONFIG_MOUNT}/{CONFIG_KEY}"]
    if tuning.input.urls:
        command += _repeated("--url", tuning.input.urls) + _repeated("--allow-host", settings.tuning.data_hosts)
        command += ["--plain-http"] if settings.tuning.data_plain_http else []
    else:
        command += ["--data", DATA_MOUNT]
    command += ["--output", RESULTS_MOUNT, "--workspace", str(workspace.metadata.key), "--run", run]
    command += ["--work", WORK_MOUNT, "--work-bytes", str(settings.tuning.scratch_gib << 30)]
    checkpoint = checkpoint_image(workspace, settings, options)
    if checkpoint:
        assert tuning.output is not None
        command += ["--checkpoint-image", checkpoint, "--checkpoint-secret", tuning.output.image_push_secret]
        plain = settings.plain_http_hosts & {checkpoint.partition("/")[0]}
        command += _repeated("--plain-http-registry", sorted(plain))
        command += _repeated("--trust-realm", sorted(settings.trusted_realms))
    command += ["--processes", str(processes(sizing)), "--grace-seconds", str(CHECKPOINT_SECONDS)]
    command += ["--metrics-port", str(METRICS_PORT)]
    return [*command, "--dry-run"] if options.dry_run else command


def processes(sizing: Sizing) -> int:
    """Return how many processes train: one for each GPU (DDP), one where the engine computes on the processor."""
    if sizing.engine is not None and not sizing.engine.needs_gpu:
        return 1
    return sizing.gpus_per_node


def _packager_flags(workspace: Workspace, settings: Settings, container: str) -> list[str]:
    assert workspace.tuning is not None
    assert workspace.tuning.output is not None
    host = _output_image(workspace).partition("/")[0]
    secret = ["--push-secret", workspace.tuning.output.image_push_secret, "--push-secret-folder", SECRET_MOUNT]
    plain = _repeated("--plain-http", sorted(settings.plain_http_hosts & {host}))
    return [*secret, "--container", container, *plain, *_repeated("--trust-realm", sorted(settings.trusted_realms))]


def _sign_flags(options: Options) -> list[str]:
    return ["--sign-key", f"{KEY_MOUNT}/{KEY_FILE}"] if options.signing_key_secret else []


def _output_image(workspace: Workspace) -> str:
    assert workspace.tuning is not None
    assert workspace.tuning.output is not None
    return workspace.tuning.output.image


def _repeated(flag: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
