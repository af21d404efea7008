"""What stands behind a pool's machines: the seam between the ARM stand-in and Kubernetes."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class MachineSpec:
    """One machine of a pool, as the cloud would boot it."""

    node_name: str
    pool: str
    provider_id: str
    vm_size: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()


class NodeBackend(Protocol):
    """Boots and removes the node of a machine."""

    async def start(self, machine: MachineSpec) -> None:
        """Brings the machine's Node up; returns when the Node object exists, ready or not."""

    async def stop(self, node_name: str) -> None:
        """Takes the machine away. The Node object goes too, as the cloud controller would do it."""


class NoNodes:
    """Machines without Nodes: for tests that look only at the wire."""

    async def start(self, machine: MachineSpec) -> None:
        """Nothing boots."""

    async def stop(self, node_name: str) -> None:
        """Nothing stops."""


def parse_taint(text: str) -> dict[str, str]:
    """A taint as AKS takes it, `key=value:Effect`, as a Kubernetes taint; an empty value is left out."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    taint = {"key": key, "effect": effect}
    if value:
        taint["value"] = value
    return taint
