"""karpenter.sh/v1alpha5 Machine: NodeClaim's predecessor, for clusters that still use it."""

from __future__ import annotations

import msgspec

from kaito_api.core.node import Taint
from kaito_api.meta import Condition, ObjectMeta
from kaito_api.nodeclaim import ResourceRequests
from kaito_api.quantity import Quantities


class MachineTemplateRef(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which provider configuration to use."""

    name: str = ""
    api_version: str = ""
    kind: str = ""


class MachineRequirement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A node selector requirement, without v1's minValues."""

    key: str
    operator: str
    values: list[str] = []


class MachineSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is asked for. The kubelet settings of v1alpha5 are accepted by the CRD and not used by KAITO."""

    machine_template_ref: MachineTemplateRef | None = None
    requirements: list[MachineRequirement] = []
    resources: ResourceRequests = ResourceRequests()
    taints: list[Taint] = []
    startup_taints: list[Taint] = []


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What was given.

    Upstream's CRD has no `observedGeneration` in conditions and prunes it: write Machine conditions with
    `observed_generation=0`, or an unchanged status looks changed for ever on such a cluster.
    """

    node_name: str = ""
    provider_id: str = msgspec.field(name="providerID", default="")
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: list[Condition] = []


class Machine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """karpenter.sh/v1alpha5 Machine (cluster-scoped)."""

    metadata: ObjectMeta
    spec: MachineSpec = MachineSpec()
    status: MachineStatus = MachineStatus()
