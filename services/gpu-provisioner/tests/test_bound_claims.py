"""What is bought is not judged again: a claim with a machine lives on, whatever today's rules say about its requirements."""

import uuid
from pathlib import Path

import pytest
from provisioner_stage import stage

from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually

CONTRADICTORY = [
    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]},
    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]},
    {"key": "karpenter.sh/capacity-type", "operator": "NotIn", "values": ["spot"]},
]
"""An earlier release bought on-demand for it."""


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize("finalized", [True, False])
async def test_a_claim_with_a_machine_is_served_though_its_requirements_are_refused_today(
    apiserver: ApiServer, tmp_path: Path, finalized: bool
) -> None:
    name = f"b{uuid.uuid4().hex[:9]}"
    async with stage(apiserver, tmp_path) as s:
        marks = {"kaito.sh/workspace": "phi", "karpenter.sh/nodepool": "kaito"}
        s.arm.wire.cloud.put(name, {"count": 1, "vmSize": "Standard_NC6s_v3", "nodeLabels": marks}, None)
        await eventually(lambda: s.pool().machines and s.pool().state == "Succeeded", timeout=90)
        (machine,) = s.pool().machines.values()
        await s.claim(name, workspace="uid-1", requirements=CONTRADICTORY)
        if finalized:
            await s.client.patch(NODECLAIMS, Key("", name), {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
        status = {"providerID": machine.provider_id, "nodeName": machine.node_name}
        await s.client.patch(NODECLAIMS, Key("", name), {"status": status}, subresource="status")
        async with s.provisioner():
            await s.ready(name)
            claim = await s.get(name)
            assert claim.metadata.finalizers == ["karpenter.sh/termination"]
            assert "kaito.sh/agent-pool" not in claim.metadata.annotations, "its pool is what it is"
            await s.client.delete(NODES, Key("", machine.node_name))
            await eventually(lambda: s.is_gone(name), timeout=90)
            await s.said(name, "MachineLost", "its node was deleted")
        assert s.calls("put") == []
