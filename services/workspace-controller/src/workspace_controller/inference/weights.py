"""Where the weights come from: the preset's OCI image, Hugging Face at a pinned revision, or a volume."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from kaito_api.workspace import PresetSpec, Workspace
from workspace_controller.options import Options
from workspace_controller.presets import Preset
from workspace_controller.settings import Settings

VOLUME: Final = "weights"
MOUNT_PATH: Final = "/workspace/weights"
LOCAL_FOLDER: Final = "/opt/kaito/models"
_SLACK: Final = 1.1


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The plan for the weights of one pod."""

    volume: dict[str, Any]
    """The pod's volume `weights`."""
    source: str = ""
    """What the init container fetches: `oci://...` or `hf://...`; "" where the volume holds the weights already."""
    plain_http_hosts: tuple[str, ...] = ()
    """Hosts of `source` that are spoken to without TLS."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with which the registry of `source` is entered."""
    token_secret: str = ""
    """Secret with the key HF_TOKEN, for the init container alone."""
    disk_gib: int = 0
    """Space that the pod takes on its node's disk for them."""


def plan_weights(workspace: Workspace, preset: Preset, settings: Settings, options: Options) -> Weights:
    """Plan the weights of `preset` for the pods of `workspace`."""
    if options.weights_claim:
        return Weights(volume=_volume(persistentVolumeClaim={"claimName": options.weights_claim, "readOnly": True}))
    if options.local_weights and settings.allow_host_path:
        folder = preset.hugging_face.id.lower().replace("/", "-").replace("\\", "-")
        return Weights(volume=_volume(hostPath={"path": f"{LOCAL_FOLDER}/{folder}", "type": "Directory"}))
    block = workspace.inference or workspace.tuning
    assert block is not None
    wanted = block.preset
    assert wanted is not None
    source = _source(wanted, preset, settings, options)
    size = math.ceil(preset.weights_gib * _SLACK) + 1
    return Weights(
        volume=_volume(emptyDir={"sizeLimit": f"{size}Gi"}),
        source=source,
        plain_http_hosts=tuple(sorted(settings.plain_http_hosts & {_host(source)})),
        pull_secrets=tuple(sorted(set(wanted.preset_options.image_pull_secrets)))
        if source.startswith("oci://")
        else (),
        token_secret=wanted.preset_options.model_access_secret if source.startswith("hf://") else "",
        disk_gib=size,
    )


def _source(wanted: PresetSpec, preset: Preset, settings: Settings, options: Options) -> str:
    if wanted.preset_options.image:
        return f"oci://{wanted.preset_options.image}{_fragment(preset)}"
    if (options.weights_from or settings.weights_from) == "hf":
        return f"hf://{preset.hugging_face.id}@{preset.hugging_face.revision}"
    image = f"{settings.preset_registry.rstrip('/')}/{preset.image.repository}:{preset.image.tag}"
    return f"oci://{image}{_fragment(preset)}"


def _fragment(preset: Preset) -> str:
    return f"#{preset.image.path}" if preset.image.path else ""


def _host(source: str) -> str:
    return source.partition("://")[2].partition("/")[0]


def _volume(**kind: dict[str, Any]) -> dict[str, Any]:
    return {"name": VOLUME, **kind}
