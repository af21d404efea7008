"""One view over NodeClaim (karpenter.sh/v1) and Machine (karpenter.sh/v1alpha5), so that both have one life."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from kaito_api import labels
from kaito_api.core.node import Taint
from kaito_api.machine import Machine
from kaito_api.meta import Condition, Key, ObjectMeta, Resource
from kaito_api.nodeclaim import NodeClaim, Requirement
from kaito_api.quantity import Quantities
from kaito_api.resources import MACHINES, NODECLAIMS

AGENT_POOL_ANNOTATION = "kaito.sh/agent-pool"
"""On claims: the agent pool that the claim asks from. Written before the pool, so that a restart finds it."""
LAUNCH_OPTION_ANNOTATION = "kaito.sh/launch-option"
"""On claims: `<instance type>/<zone or ->/<capacity type>`, the alternative of the requirements that is being tried."""

KAITO_NODE_CLASS = ("kaito.sh", "KaitoNodeClass")
NODE_CLASS_LABEL = "kaito.sh/kaitonodeclass"
"""On Nodes of claims that only their node class makes ours: Karpenter's convention of group and kind, as KAITO reads it too."""


class ClaimKind(StrEnum):
    """Which of the two APIs an object belongs to."""

    NODE_CLAIM = "NodeClaim"
    MACHINE = "Machine"


class ClaimView(msgspec.Struct, frozen=True, kw_only=True):
    """What the provisioner reads of a claim, whichever kind it is."""

    kind: ClaimKind
    name: str
    uid: str
    resource_version: str
    generation: int
    created: datetime | None
    deleted: datetime | None
    labels: dict[str, str]
    annotations: dict[str, str]
    finalizers: list[str]
    node_class: tuple[str, str]
    requirements: list[Requirement]
    requests: Quantities
    taints: list[Taint]
    startup_taints: list[Taint]
    termination_grace_period: str | None
    provider_id: str
    node_name: str
    image_id: str
    capacity: Quantities
    allocatable: Quantities
    conditions: list[Condition]

    @property
    def key(self) -> Key:
        """Work-queue key: the kind stands where the namespace of namespaced objects is, since claims have none."""
        return Key(self.kind, self.name)

    @property
    def metadata(self) -> ObjectMeta:
        """Identity, for events about the claim."""
        return ObjectMeta(name=self.name, uid=self.uid)

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for."""
        return self.deleted is not None

    @property
    def managed(self) -> bool:
        """The accept rule: KAITO's node class, or a KAITO owner label. Everything else belongs to another provisioner."""
        return owned_by_kaito(self.labels) or self.node_class == KAITO_NODE_CLASS

    @property
    def finalized(self) -> bool:
        """Whether our finalizer is on the object: nothing is bought before it is."""
        return labels.KARPENTER_FINALIZER in self.finalizers

    @property
    def owner(self) -> str:
        """Who the machine is for: the Workspace's UID, or the claim itself. Claims of one owner may share a pool."""
        workspace = self.annotations.get(labels.WORKSPACE_UID)
        return workspace or f"{self.kind}:{self.uid}"

    @property
    def pool(self) -> str:
        """The agent pool chosen for it, "" before that."""
        return chosen_pool(self.name, self.annotations, self.provider_id)


def chosen_pool(name: str, annotations: dict[str, str], provider_id: str) -> str:
    """The agent pool chosen for a claim, "" before that. KAITO's gpu-provisioner named it like the claim and said so nowhere."""
    return annotations.get(AGENT_POOL_ANNOTATION) or (name if provider_id else "")


def owned_by_kaito(marks: dict[str, str]) -> bool:
    """Whether labels carry a KAITO owner: the one predicate for claims, their Nodes, and pools made by earlier releases."""
    return labels.WORKSPACE in marks or labels.RAGENGINE in marks or NODE_CLASS_LABEL in marks


def resource_of(claim: ClaimView) -> Resource[Any]:
    """Where the claim lives on the apiserver."""
    return MACHINES if claim.kind is ClaimKind.MACHINE else NODECLAIMS


def from_node_claim(claim: NodeClaim) -> ClaimView:
    """The view of a NodeClaim."""
    meta, spec, status = claim.metadata, claim.spec, claim.status
    return ClaimView(
        kind=ClaimKind.NODE_CLAIM,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        created=meta.creation_timestamp,
        deleted=meta.deletion_timestamp,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        node_class=(spec.node_class_ref.group, spec.node_class_ref.kind),
        requirements=spec.requirements,
        requests=spec.resources.requests,
        taints=spec.taints,
        startup_taints=spec.startup_taints,
        termination_grace_period=spec.termination_grace_period,
        provider_id=status.provider_id,
        node_name=status.node_name,
        image_id=status.image_id,
        capacity=status.capacity,
        allocatable=status.allocatable,
        conditions=status.conditions,
    )


def from_machine(machine: Machine) -> ClaimView:
    """The view of a Machine. Its template reference plays the node class's part."""
    meta, spec, status = machine.metadata, machine.spec, machine.status
    template = spec.machine_template_ref
    return ClaimView(
        kind=ClaimKind.MACHINE,
        name=meta.name,
        uid=meta.uid,
        resource_version=meta.resource_version,
        generation=meta.generation,
        created=meta.creation_timestamp,
        deleted=meta.deletion_timestamp,
        labels=meta.labels,
        annotations=meta.annotations,
        finalizers=meta.finalizers,
        node_class=(template.api_version.partition("/")[0], template.kind) if template else ("", ""),
        requirements=[Requirement(key=r.key, operator=r.operator, values=r.values) for r in spec.requirements],
        requests=spec.resources.requests,
        taints=spec.taints,
        startup_taints=spec.startup_taints,
        termination_grace_period=None,
        provider_id=status.provider_id,
        node_name=status.node_name,
        image_id="",
        capacity=status.capacity,
        allocatable=status.allocatable,
        conditions=status.conditions,
    )
