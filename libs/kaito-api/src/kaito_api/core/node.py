"""core/v1 Node."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kaito_api.meta import ObjectMeta
from kaito_api.quantity import Quantities


class Taint(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Taint. Two taints are the same one when key and effect match."""

    key: str
    effect: str
    value: str = ""
    time_added: datetime | None = None


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What kubelet, the cloud and the operators ask of the node."""

    provider_id: str = msgspec.field(name="providerID", default="")
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 NodeCondition without lastHeartbeatTime: a heartbeat is not a change."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One address: type is Hostname, InternalIP, ExternalIP, InternalDNS or ExternalDNS."""

    type: str
    address: str


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 NodeSystemInfo. `boot_id` changes when the machine restarts."""

    boot_id: str = msgspec.field(name="bootID", default="")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What kubelet and the device plugins report."""

    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: list[NodeCondition] = []
    addresses: list[NodeAddress] = []
    node_info: NodeInfo = NodeInfo()


class Node(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Node."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    def condition(self, type_: str) -> NodeCondition | None:
        """Return the condition of that type, or None."""
        return next((c for c in self.status.conditions if c.type == type_), None)

    @property
    def ready(self) -> bool:
        """Whether kubelet says Ready; Unknown (kubelet silent) is not ready."""
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"
