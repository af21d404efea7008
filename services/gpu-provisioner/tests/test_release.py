"""Nodes under deletion that no claim holds: ours lose their finalizer, those of Karpenter's other providers keep theirs."""

import uuid
from pathlib import Path

import pytest
from provisioner_stage import Stage, stage

from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.pytest_plugin import ApiServer
from kubecore.errors import NotFound
from kubecore.testing.asserts import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FINALIZER = "karpenter.sh/termination"


@pytest.fixture
def name() -> str:
    return f"r{uuid.uuid4().hex[:9]}"


async def registered(s: Stage, name: str, **marks: str) -> None:
    """A Node as any provider of Karpenter leaves it after registration, with further labels."""
    metadata = {"name": name, "finalizers": [FINALIZER], "labels": {"karpenter.sh/registered": "true", **marks}}
    await s.client.create(NODES, {"metadata": metadata, "spec": {"providerID": provider(name)}})


def provider(name: str) -> str:
    return f"azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/{name}"


async def others_claim(s: Stage, name: str, node: str) -> None:
    """A claim of Azure's Karpenter for the node's machine."""
    group = {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"}
    size = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["A"]}
    await s.client.create(
        NODECLAIMS, {"metadata": {"name": name}, "spec": {"nodeClassRef": group, "requirements": [size]}}
    )
    await s.client.patch(NODECLAIMS, Key("", name), {"status": {"providerID": provider(node)}}, subresource="status")


async def test_only_nodes_of_ours_are_released_and_only_without_a_claim(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    async with stage(apiserver, tmp_path) as s:
        await registered(s, f"{name}-theirs", **{"karpenter.sh/nodepool": "default"})
        await registered(s, f"{name}-their-orphan", **{"karpenter.sh/nodepool": "default"})
        await registered(s, f"{name}-claimed", **{"kaito.sh/workspace": "phi"})
        await others_claim(s, f"{name}-1", f"{name}-theirs")
        await others_claim(s, f"{name}-2", f"{name}-claimed")
        await registered(s, f"{name}-workspace", **{"kaito.sh/workspace": "phi"})
        await registered(s, f"{name}-class", **{"kaito.sh/kaitonodeclass": "true"})
        kept, gone = ("theirs", "their-orphan", "claimed"), ("workspace", "class")
        for each in (*kept, *gone):  # in this order: where the last ones are gone, the first ones were looked at
            await s.client.delete(NODES, Key("", f"{name}-{each}"))
        async with s.provisioner():

            async def released() -> bool:
                return all([await absent(s, f"{name}-{each}") for each in gone])

            await eventually(released, timeout=90)
            for each in kept:
                node = await s.client.get(NODES, Key("", f"{name}-{each}"))
                assert node.metadata.deleting
                assert node.metadata.finalizers == [FINALIZER], each


async def absent(s: Stage, node: str) -> bool:
    try:
        await s.client.get(NODES, Key("", node))
    except NotFound:
        return True
    return False


async def test_a_claim_that_only_its_node_class_makes_ours_marks_its_node(
    apiserver: ApiServer, tmp_path: Path, name: str
) -> None:
    """Its claim is taken away by force: the Node, should it be deleted then, still goes."""
    async with stage(apiserver, tmp_path) as s, s.provisioner():
        size = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
        ours = {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
        await s.client.create(
            NODECLAIMS, {"metadata": {"name": name}, "spec": {"nodeClassRef": ours, "requirements": [size]}}
        )
        await s.ready(name)
        node = (await s.get(name)).status.node_name
        assert "kaito.sh/kaitonodeclass" in (await s.client.get(NODES, Key("", node))).metadata.labels
        await s.tear_out(NODECLAIMS, name)
        await s.client.delete(NODES, Key("", node))
        await eventually(lambda: absent(s, node), timeout=90)
