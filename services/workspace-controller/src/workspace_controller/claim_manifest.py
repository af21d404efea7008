"""The manifest of one claim, as karpenter.sh/v1 NodeClaim or karpenter.sh/v1alpha5 Machine."""

from __future__ import annotations

from typing import Any, Final

from kaito_api import labels
from kaito_api.resources import MACHINES, NODECLAIMS
from kaito_api.workspace import Workspace
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import claim_name
from workspace_controller.options import read_options
from workspace_controller.selector import node_labels, ownership_labels
from workspace_controller.settings import ClaimApi, Settings
from workspace_controller.sizing import Sizing

_TAINTS: Final = [{"key": labels.TAINT_SKU, "value": labels.TAINT_SKU_GPU, "effect": "NoSchedule"}]


def claim_manifest(workspace: Workspace, sizing: Sizing, settings: Settings, slot: int, attempt: int) -> Manifest:
    """Return the claim for one node of `sizing`. It has no owner reference: its owner would be namespaced."""
    metadata = {
        "name": claim_name(workspace.metadata.uid, slot, attempt),
        "labels": _labels(workspace, settings),
        "annotations": {
            labels.DO_NOT_DISRUPT: "true",
            labels.NODE_IMAGE_FAMILY: read_options(workspace.metadata.annotations).node_image_family
            or settings.node_image_family,
            labels.WORKSPACE_UID: workspace.metadata.uid,
            labels.CLAIM_SLOT: str(slot),
            labels.CLAIM_ATTEMPT: str(attempt),
        },
    }
    if settings.claim_api is ClaimApi.MACHINE:
        return manifest(MACHINES, metadata, spec=_machine_spec(sizing, settings))
    return manifest(NODECLAIMS, metadata, spec=_nodeclaim_spec(sizing, settings))


def _labels(workspace: Workspace, settings: Settings) -> dict[str, str]:
    pool = {labels.NODEPOOL: labels.NODEPOOL_KAITO}
    if settings.claim_api is ClaimApi.MACHINE:
        pool = {labels.PROVISIONER_NAME: labels.PROVISIONER_DEFAULT}
    wanted = (
        {labels.ACCELERATOR: labels.ACCELERATOR_NVIDIA} | node_labels(workspace) | ownership_labels(workspace) | pool
    )
    return dict(sorted(wanted.items()))


def _nodeclaim_spec(sizing: Sizing, settings: Settings) -> dict[str, Any]:
    reference = settings.node_class
    return {
        "nodeClassRef": {"group": reference.group, "kind": reference.kind, "name": reference.name},
        "requirements": [_one_of(labels.NODEPOOL, labels.NODEPOOL_KAITO), *_machine_requirements(sizing)],
        "taints": _TAINTS,
        "resources": {"requests": {"storage": f"{sizing.disk_gib}Gi"}},
        # Karpenter would end a node after 30 days by default, whatever do-not-disrupt says
        "expireAfter": "Never",
    }


def _machine_spec(sizing: Sizing, settings: Settings) -> dict[str, Any]:
    return {
        "machineTemplateRef": {"name": settings.node_class.name},
        "requirements": [_one_of(labels.PROVISIONER_NAME, labels.PROVISIONER_DEFAULT), *_machine_requirements(sizing)],
        "taints": _TAINTS,
        "resources": {"requests": {"storage": f"{sizing.disk_gib}Gi"}},
    }


def _machine_requirements(sizing: Sizing) -> list[dict[str, Any]]:
    requirements = [_one_of(labels.INSTANCE_TYPE, sizing.instance_type), _one_of(labels.OS, "linux")]
    if sizing.instance_type.startswith("Standard_"):
        requirements.append(_one_of(labels.SKU_NAME, sizing.instance_type))
    return requirements


def _one_of(key: str, value: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": [value]}
