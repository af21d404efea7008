"""The Job: one pod at a time, tried again only where that can help."""

from __future__ import annotations

from typing import Any, Final

from kaito_api import labels
from kaito_api.resources import JOBS
from kaito_api.workspace import Workspace
from workspace_controller.inference.metadata import owned_metadata
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.tuning.exits import PERMANENT

BACKOFF_LIMIT: Final = 6
"""Pods that may fail for a reason that can pass; disruptions are not counted."""


def job(workspace: Workspace, template: dict[str, Any], *, run: str, revision: int) -> Manifest:
    """Return the Job of `workspace` with that pod template, made for the request `run`.

    Its template can never be changed; a different request means a new Job. It has no time limit and is kept when it is done:
    its pods' logs, and the reason why it failed, are the user's to read.
    """
    annotations = {labels.TUNING_RUN: run}
    if revision:
        annotations[labels.REVISION] = str(revision)
    spec = template["spec"]
    names = {container["name"] for container in (*spec.get("initContainers", []), *spec["containers"])}
    return manifest(
        JOBS,
        owned_metadata(workspace, workspace.metadata.name, annotations),
        spec={
            "backoffLimit": BACKOFF_LIMIT,
            "completions": 1,
            "parallelism": 1,
            "podFailurePolicy": {"rules": _rules(names)},
            "podReplacementPolicy": "Failed",
            "template": template,
        },
    )


def _rules(containers: set[str]) -> list[dict[str, Any]]:
    """Return the rules: an eviction is nobody's fault, a permanent exit code ends the Job, all else is counted."""
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return [
        disrupted,
        *(
            {
                "action": "FailJob",
                "onExitCodes": {"containerName": name, "operator": "In", "values": list(codes)},
            }
            for name, codes in PERMANENT.items()
            if name in containers
        ),
    ]
