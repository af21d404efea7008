"""On which nodes the pods may run."""

from __future__ import annotations

from typing import Any, Final

from kaito_api import labels
from kaito_api.workspace import Workspace
from workspace_controller.selector import node_labels, ownership_labels
from workspace_controller.sizing import Sizing

TOLERATIONS: Final[tuple[dict[str, str], ...]] = (
    {"key": labels.RESOURCE_GPU, "operator": "Exists", "effect": "NoSchedule"},
    {"key": labels.TAINT_SKU, "operator": "Equal", "value": labels.TAINT_SKU_GPU, "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
)


def node_requirements(workspace: Workspace, sizing: Sizing) -> list[dict[str, Any]]:
    """Return what a node must carry: the selector's labels and, unless the user brings the nodes, their owner's name."""
    wanted = node_labels(workspace)
    if sizing.instance_type:
        wanted = wanted | ownership_labels(workspace)
    return [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(wanted.items())]


def affinity(requirements: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the affinity that insists on `requirements`."""
    terms = {"nodeSelectorTerms": [{"matchExpressions": requirements}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
