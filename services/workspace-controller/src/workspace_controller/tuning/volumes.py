"""The volumes of a tuning Job's pod."""

from __future__ import annotations

from typing import Any

from kaito_api.workspace import Workspace
from workspace_controller.inference.weights import Weights
from workspace_controller.options import Options
from workspace_controller.sizing import Sizing
from workspace_controller.tuning.resources import TMP_GIB, shared_memory


def volumes(
    workspace: Workspace, sizing: Sizing, weights: Weights, options: Options, *, scratch_gib: int, pushes: bool
) -> list[dict[str, Any]]:
    """Return the volumes, by name. `pushes`: the result goes into a registry, so its Secrets are needed."""
    tuning = workspace.tuning
    assert tuning is not None
    assert tuning.input is not None
    assert tuning.output is not None
    scratch = {"emptyDir": {"sizeLimit": f"{scratch_gib}Gi"}}
    found: list[dict[str, Any]] = [
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(sizing)}},
        {"name": "results", **(tuning.output.volume_source or scratch)},
        {"name": "tmp", "emptyDir": {"sizeLimit": f"{TMP_GIB}Gi"}},
        weights.volume,
        {"name": "work", **scratch},
    ]
    if not tuning.input.urls:
        found.append({"name": "data", **(tuning.input.volume_source or scratch)})
    if tuning.config:
        found.append({"name": "config", "configMap": {"name": tuning.config}})
    if pushes:
        # Optional: a missing Secret is then told by the check, in words, instead of by a pod that never starts.
        secret = {"secretName": tuning.output.image_push_secret, "optional": True, "defaultMode": 0o440}
        found.append({"name": "push-secret", "secret": secret})
    if pushes and options.signing_key_secret:
        key = {"secretName": options.signing_key_secret, "optional": True, "defaultMode": 0o440}
        found.append({"name": "signing-key", "secret": key})
    return sorted(found, key=lambda volume: str(volume["name"]))
