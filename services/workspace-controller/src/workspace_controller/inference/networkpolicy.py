"""The fence around an engine that spans nodes: its own ports have no authentication."""

from __future__ import annotations

from kaito_api.resources import NETWORKPOLICIES
from kaito_api.workspace import Workspace
from workspace_controller.inference.command import HTTP_PORT
from workspace_controller.inference.metadata import owned_metadata, pod_selector
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import network_policy_name


def network_policy(workspace: Workspace) -> Manifest:
    """Return the policy: anybody reaches the HTTP port, only pods of this Workspace reach the others.

    The collective library picks its ports freely, so those of the Workspace's own pods are all open to each other.
    """
    return manifest(
        NETWORKPOLICIES,
        owned_metadata(workspace, network_policy_name(workspace.metadata.name)),
        spec={
            "podSelector": {"matchLabels": pod_selector(workspace)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": HTTP_PORT, "protocol": "TCP"}]},
                {"from": [{"podSelector": {"matchLabels": pod_selector(workspace)}}]},
            ],
        },
    )
