"""GPUs and nodes that were lost while nobody looked, and GPUs that never came."""

import uuid
from pathlib import Path

import pytest
from provisioner_stage import Stage, stage

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION
from kaito_api.meta import Key
from kaito_api.resources import NODECLAIMS, NODES
from kaito_local.pytest_plugin import ApiServer
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import fast_clock

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
GPU = {"requests": {"nvidia.com/gpu": "1"}}
KIND = {ClaimKind.NODE_CLAIM}


async def claim_of_a_workspace(s: Stage, name: str) -> None:
    """As the workspace controller makes it: it requests no GPU, but says that it is about NVIDIA's."""
    body = {
        "metadata": {"name": name, "labels": {"kaito.sh/workspace": "phi", "accelerator": "nvidia"}},
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
            ],
            "resources": {"requests": {"storage": "80Gi"}},
        },
    }
    await s.client.create(NODECLAIMS, body)


async def test_a_gpu_that_never_came_costs_no_second_machine_and_one_that_went_does(
    apiserver: ApiServer, tmp_path: Path
) -> None:
    name = f"g{uuid.uuid4().hex[:9]}"
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner(KIND):
        s.nodes.gpus = 0
        await claim_of_a_workspace(s, name)
        await eventually(lambda: s.reason(name, "Initialized", "ResourceNotRegistered"), timeout=90)
        assert "NVIDIA device plugin" in (await s.condition(name, "Initialized"))[2]
        assert (await s.condition(name, "Ready"))[0] == "Unknown"
        began = clock.monotonic()
        await eventually(lambda: clock.monotonic() - began > 900, timeout=90)
        assert not (await s.get(name)).metadata.deleting
        assert len(s.calls("put")) == 1
        node = (await s.get(name)).status.node_name
        await s.nodes.set_ready(node, ready=True, gpus=1)
        await s.ready(name)
        await s.nodes.set_ready(node, ready=True, gpus=0)
        await eventually(lambda: s.is_gone(name), timeout=90)
        await s.said(name, "NodeUnhealthy", "has lost its GPU")


async def test_a_gpu_that_was_lost_while_no_provisioner_ran_is_missed(apiserver: ApiServer, tmp_path: Path) -> None:
    name = f"g{uuid.uuid4().hex[:9]}"
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s:
        async with s.provisioner(KIND):
            await s.claim(name, resources=GPU)
            await s.ready(name)
            node = (await s.get(name)).status.node_name

            async def marked() -> bool:
                return GPU_SEEN_ANNOTATION in (await s.client.get(NODES, Key("", node))).metadata.annotations

            await eventually(marked, timeout=90)
        await s.nodes.set_ready(node, ready=True, gpus=0)
        began = clock.monotonic()
        async with s.provisioner(KIND):
            await eventually(lambda: s.is_gone(name), timeout=90)
        assert clock.monotonic() - began >= 600
        await s.said(name, "NodeUnhealthy", "has lost its GPU")


async def test_a_node_that_joins_and_never_becomes_ready_is_replaced(apiserver: ApiServer, tmp_path: Path) -> None:
    """Nothing changes after its binding: the binding itself has to bring the first look at its health."""
    name = f"g{uuid.uuid4().hex[:9]}"
    async with fast_clock(60) as clock, stage(apiserver, tmp_path, clock=clock) as s, s.provisioner(KIND):
        s.nodes.ready_after = 60.0  # an hour of the provisioner's clock
        began = clock.monotonic()
        await claim_of_a_workspace(s, name)
        await eventually(lambda: s.reason(name, "Initialized", "NodeNotReady"), timeout=90)
        await eventually(lambda: s.is_gone(name), timeout=50)
        assert clock.monotonic() - began >= 600
        await s.said(name, "NodeUnhealthy", "is not Ready")
