"""Builders of claims and nodes for the tests of this service."""

from datetime import UTC, datetime

import msgspec

from gpu_provisioner.claims.view import ClaimView, from_machine, from_node_claim
from kaito_api.core.node import Node
from kaito_api.machine import Machine
from kaito_api.nodeclaim import NodeClaim

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PROVIDER = "azure:///subscriptions/s/virtualMachineScaleSets/aks-p-1-vmss/virtualMachines/0"


def requirement(key: str, *values: str, operator: str = "In") -> dict[str, object]:
    return {"key": key, "operator": operator, "values": list(values)}


def node_claim(name: str = "ws1", **changes: object) -> ClaimView:
    """A NodeClaim as the workspace controller makes it, as a view, with fields of the view replaced."""
    claim = msgspec.convert(
        {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "resourceVersion": "7",
                "generation": 1,
                "creationTimestamp": "2026-11-21T11:59:00Z",
                "labels": {
                    "kaito.sh/workspace": "phi",
                    "kaito.sh/workspacenamespace": "default",
                    "karpenter.sh/nodepool": "kaito",
                },
                "annotations": {"kaito.sh/workspace-uid": "uid-workspace"},
            },
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [requirement("node.kubernetes.io/instance-type", "Standard_NC6s_v3")],
                "resources": {"requests": {"storage": "100G", "nvidia.com/gpu": "1"}},
                "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            },
        },
        NodeClaim,
    )
    return msgspec.structs.replace(from_node_claim(claim), **changes)


def machine_claim(name: str = "ws1") -> ClaimView:
    """The same as a Machine of karpenter.sh/v1alpha5."""
    claim = msgspec.convert(
        {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "resourceVersion": "7",
                "labels": {"kaito.sh/workspace": "phi"},
            },
            "spec": {"requirements": [requirement("node.kubernetes.io/instance-type", "Standard_NC6s_v3")]},
        },
        Machine,
    )
    return from_machine(claim)


def node(*, ready: bool = True, taints: list[dict[str, str]] | None = None, gpus: int = 1, **labels: str) -> Node:
    """A Node of the claim's machine, with further labels."""
    return msgspec.convert(
        {
            "metadata": {
                "name": "aks-p-1-vmss000000",
                "uid": "uid-node",
                "resourceVersion": "9",
                "labels": {
                    "kubernetes.azure.com/agentpool": "p",
                    "kubernetes.azure.com/node-image-version": "img-1",
                    **labels,
                },
            },
            "spec": {"providerID": PROVIDER, "taints": taints or []},
            "status": {
                "capacity": {"cpu": "6"},
                "allocatable": {"cpu": "5500m", **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True" if ready else "False",
                        "lastTransitionTime": "2026-11-21T11:00:00Z",
                    }
                ],
            },
        },
        Node,
    )
