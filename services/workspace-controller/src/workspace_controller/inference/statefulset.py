"""The StatefulSet: one pod for each node, started together."""

from __future__ import annotations

from typing import Any

from kaito_api import labels
from kaito_api.resources import STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.inference.metadata import owned_metadata, pod_selector
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import headless_service_name, statefulset_name


def statefulset(workspace: Workspace, template: dict[str, Any], replicas: int, revision: int) -> Manifest:
    """Return the StatefulSet of `workspace` with that pod template. Its update strategy is decided in `rollout`.

    `serviceName` cannot be changed later, so it names the headless Service even while there is one node and no such
    Service.
    """
    name = workspace.metadata.name
    annotations = {labels.REVISION: str(revision)} if revision else None
    return manifest(
        STATEFULSETS,
        owned_metadata(workspace, statefulset_name(name), annotations),
        spec={
            "podManagementPolicy": "Parallel",
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": pod_selector(workspace)},
            "serviceName": headless_service_name(name),
            "template": template,
        },
    )
