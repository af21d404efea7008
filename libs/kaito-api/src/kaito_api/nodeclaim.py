"""karpenter.sh/v1 NodeClaim: a request for one machine. Its spec cannot be changed after creation."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kaito_api.core.node import Taint
from kaito_api.meta import Condition, ObjectMeta
from kaito_api.quantity import Quantities


class NodeClassRef(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which provider configuration to use; the object that it names need not exist for KAITO's provisioner.

    Claims stored under earlier schemas may lack any of these: they must still be readable, or nobody would let them go.
    """

    group: str = ""
    kind: str = ""
    name: str = ""


class Requirement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A node selector requirement: operator is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: list[str] = []
    min_values: int | None = None


class ResourceRequests(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Minimum resources; `storage` is the size of the OS disk."""

    requests: Quantities = {}


class NodeClaimSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is asked for."""

    node_class_ref: NodeClassRef = NodeClassRef()
    requirements: list[Requirement] = []
    resources: ResourceRequests = ResourceRequests()
    taints: list[Taint] = []
    startup_taints: list[Taint] = []
    expire_after: str = "720h"
    termination_grace_period: str | None = None


class NodeClaimStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What was given. `provider_id` is written once."""

    node_name: str = ""
    provider_id: str = msgspec.field(name="providerID", default="")
    image_id: str = msgspec.field(name="imageID", default="")
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: list[Condition] = []
    last_pod_event_time: datetime | None = None


class NodeClaim(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """karpenter.sh/v1 NodeClaim (cluster-scoped)."""

    metadata: ObjectMeta
    spec: NodeClaimSpec
    status: NodeClaimStatus = NodeClaimStatus()
