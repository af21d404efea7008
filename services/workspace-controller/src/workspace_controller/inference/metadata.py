"""Metadata of the objects made for a Workspace."""

from __future__ import annotations

from typing import Any, Final

from kaito_api import labels
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace

MANAGER: Final = "kaito"


def owned_metadata(workspace: Workspace, name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """Return metadata for an object of that name which goes when the Workspace goes."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": workspace.metadata.namespace,
        "labels": {labels.MANAGED_BY: MANAGER, labels.WORKSPACE: workspace.metadata.name},
        "ownerReferences": [
            {
                "apiVersion": WORKSPACES.api_version,
                "kind": WORKSPACES.kind,
                "name": workspace.metadata.name,
                "uid": workspace.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = annotations
    return metadata


def pod_selector(workspace: Workspace) -> dict[str, str]:
    """Return the labels that select the pods of the Workspace within its namespace."""
    return {labels.WORKSPACE: workspace.metadata.name}


def pod_labels(workspace: Workspace) -> dict[str, str]:
    """Return the labels of the pods: the selector, and the mark of an InferenceSet that made the Workspace."""
    parent = workspace.metadata.labels.get(labels.CREATED_BY_INFERENCESET)
    extra = {labels.CREATED_BY_INFERENCESET: parent} if parent else {}
    return dict(sorted((pod_selector(workspace) | extra | {labels.MANAGED_BY: MANAGER}).items()))
