"""What `kubectl get` and `kubectl explain` show to users."""

from typing import Any

import pytest

pytestmark = pytest.mark.integration

WORKSPACE = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "phi"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"a": "b"}}},
    "inference": {"preset": {"name": "phi-4"}},
}


def condition(type_: str, status: str, reason: str = "Because") -> dict[str, str]:
    moment = "2026-01-02T03:04:05Z"
    return {"type": type_, "status": status, "reason": reason, "message": "m", "lastTransitionTime": moment}


STATUS = {
    "state": "NotReady",
    "targetNodeCount": 2,
    "plan": {"model": "phi-4", "cost": {"perHour": "6.12"}},
    "tuning": {"progress": "40%"},
    "conditions": [
        condition("ResourceReady", "True"),
        condition("InferenceReady", "False"),
        condition("WorkspaceSucceeded", "Unknown", "WeightsMissing"),
    ],
}


@pytest.mark.parametrize("resource", ["workspace", "wk", "wks", "workspaces.v1alpha1.kaito.sh"])
async def test_workspace_row(api: Any, apiserver: Any, namespace: str, resource: str) -> None:
    path = f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces"
    await api.create(path, WORKSPACE)
    await api.merge(f"{path}/phi/status", {"status": STATUS})
    header, row = (await apiserver.kubectl("get", resource, "-n", namespace)).splitlines()
    assert header.split() == ["NAME", "INSTANCE", "RESOURCEREADY", "INFERENCEREADY", "WORKSPACEREADY", "AGE"]
    assert row.split()[:5] == ["phi", "Standard_NC6s_v3", "True", "False", "Unknown"]
    wide_header, wide_row = (await apiserver.kubectl("get", resource, "-n", namespace, "-o", "wide")).splitlines()
    assert wide_header.split()[6:] == [
        "STATE",
        "JOBSTARTED",
        "TARGETNODECOUNT",
        "MODEL",
        "COSTPERHOUR",
        "REASON",
        "PROGRESS",
    ]
    assert wide_row.split()[6:] == ["NotReady", "2", "phi-4", "6.12", "WeightsMissing", "40%"]


async def test_category(api: Any, apiserver: Any, namespace: str) -> None:
    await api.create(
        f"/apis/kaito.sh/v1beta1/namespaces/{namespace}/workspaces", {**WORKSPACE, "apiVersion": "kaito.sh/v1beta1"}
    )
    assert "workspace.kaito.sh/phi" in await apiserver.kubectl("get", "workspace", "-n", namespace, "-o", "name")


@pytest.mark.parametrize(
    "path", ["resource", "resource.labelSelector", "inference.adapters.strength", "tuning.output", "status.plan"]
)
async def test_every_field_can_be_explained(apiserver: Any, path: str) -> None:
    text = await apiserver.kubectl("explain", f"workspace.{path}")
    assert "<empty>" not in text.split("FIELDS:")[0]


CLAIMS = [
    (
        "karpenter.sh/v1",
        "NodeClaim",
        "nodeclaims",
        {"nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}, "requirements": []},
        ["NAME", "TYPE", "CAPACITY", "ZONE", "NODE", "READY", "AGE"],
        ["c", "Standard_NC6s_v3", "on-demand", "eastus-1", "aks-c-0", "True"],
    ),
    (
        "karpenter.sh/v1alpha5",
        "Machine",
        "machines",
        {},
        ["NAME", "TYPE", "ZONE", "NODE", "READY", "AGE"],
        ["c", "Standard_NC6s_v3", "eastus-1", "aks-c-0", "True"],
    ),
]


@pytest.mark.parametrize(("version", "kind", "plural", "spec", "header", "row"), CLAIMS)
async def test_claim_row(
    api: Any, apiserver: Any, version: str, kind: str, plural: str, spec: Any, header: list[str], row: list[str]
) -> None:
    labels = {
        "node.kubernetes.io/instance-type": "Standard_NC6s_v3",
        "karpenter.sh/capacity-type": "on-demand",
        "topology.kubernetes.io/zone": "eastus-1",
        "karpenter.k8s.azure/zone": "eastus-1",
    }
    path = f"/apis/{version}/{plural}"
    await api.create(
        path, {"apiVersion": version, "kind": kind, "metadata": {"name": "c", "labels": labels}, "spec": spec}
    )
    try:
        status = {"nodeName": "aks-c-0", "conditions": [condition("Ready", "True")]}
        await api.merge(f"{path}/c/status", {"status": status})
        lines = (await apiserver.kubectl("get", plural, "c")).splitlines()
        assert lines[0].split() == header
        assert lines[1].split()[:-1] == row
    finally:
        await api.delete(f"{path}/c")
