"""Where a machine's Node comes from: a real kubelet, or an object that says Ready at once."""

from functools import cache

import msgspec
import yaml

from kaito_api.labels import RESOURCE_GPU
from kaito_api.meta import Key
from kaito_api.resources import NODES
from kaito_local.arm.nodes import MachineSpec
from kaito_local.locations import REPOSITORY
from kaito_local.nodes.manager import NodeManager
from kaito_local.nodes.slot import NodeSpec
from kubecore.client import Client
from kubecore.errors import AlreadyExists

_INSTANCE_TYPE = "node.kubernetes.io/instance-type"


class _Sku(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    gpu_count: int


class _SkuTable(msgspec.Struct, frozen=True):
    skus: list[_Sku]


@cache
def _gpu_counts() -> dict[str, int]:
    table = yaml.safe_load((REPOSITORY / "presets" / "skus" / "azure.yaml").read_text())
    return {sku.name.lower(): sku.gpu_count for sku in msgspec.convert(table, _SkuTable).skus}


def gpu_count(vm_size: str) -> int:
    """The GPUs of a machine of that size; 0 for a size that has none or is unknown."""
    return _gpu_counts().get(vm_size.lower(), 0)


class KubeletNodes:
    """Every machine is a real kubelet on this machine."""

    def __init__(self, manager: NodeManager) -> None:
        """Starts nodes in the manager's cluster."""
        self._manager = manager

    async def start(self, machine: MachineSpec) -> None:
        """Starts the machine's kubelet; returns when its Node object exists."""
        spec = NodeSpec(
            name=machine.node_name,
            pool=machine.pool,
            labels=machine.labels,
            taints=tuple(f"{taint['key']}={taint.get('value', '')}:{taint['effect']}" for taint in machine.taints),
            provider_id=machine.provider_id,
            gpus=gpu_count(machine.vm_size),
            instance_type=machine.vm_size,
        )
        await self._manager.start(spec, ready=False)

    async def stop(self, node_name: str) -> None:
        """Drains the node, ends it and deletes its Node object."""
        await self._manager.stop(node_name)


class ReadyNodes:
    """Every machine is a Node object that is Ready from the start: for tests and measurements without kubelets."""

    def __init__(self, client: Client) -> None:
        """Writes through that client."""
        self._client = client

    async def start(self, machine: MachineSpec) -> None:
        """Creates the Node, in one request; one that is there already is taken over."""
        resources = {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "200Gi", "pods": "110"}
        if gpus := gpu_count(machine.vm_size):
            resources[RESOURCE_GPU] = str(gpus)
        labels = {_INSTANCE_TYPE: machine.vm_size, "kubernetes.io/hostname": machine.node_name, **machine.labels}
        node = {
            "metadata": {"name": machine.node_name, "labels": labels},
            "spec": {"providerID": machine.provider_id, "taints": list(machine.taints)},
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }
        try:
            await self._client.create(NODES, {"apiVersion": "v1", "kind": "Node", **node})
        except AlreadyExists:
            return

    async def stop(self, node_name: str) -> None:
        """Deletes the Node."""
        await self._client.delete(NODES, Key("", node_name))
