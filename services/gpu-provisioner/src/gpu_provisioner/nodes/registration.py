"""What a claim's Node gets when it joins: Karpenter's marks, and the claim's labels, annotations and taints."""

from __future__ import annotations

import msgspec

from gpu_provisioner.claims.view import (
    AGENT_POOL_ANNOTATION,
    LAUNCH_OPTION_ANNOTATION,
    NODE_CLASS_LABEL,
    ClaimView,
    owned_by_kaito,
    resource_of,
)
from kaito_api import labels
from kaito_api.core.node import Node, Taint
from kaito_api.meta import OwnerReference

_CLAIM_ONLY = frozenset(
    {
        AGENT_POOL_ANNOTATION,
        LAUNCH_OPTION_ANNOTATION,
        labels.WORKSPACE_UID,
        labels.CLAIM_SLOT,
        labels.CLAIM_ATTEMPT,
        "kubectl.kubernetes.io/last-applied-configuration",
    }
)


class NodePatch(msgspec.Struct, frozen=True, kw_only=True):
    """A merge patch for the Node: labels and annotations to set, and the whole lists where they change (None: keep)."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    taints: list[Taint] | None = None
    finalizers: list[str] | None = None
    owners: list[OwnerReference] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.labels and not self.annotations and not self._lists

    @property
    def _lists(self) -> bool:
        return any(each is not None for each in (self.taints, self.finalizers, self.owners))

    def applied(self, node: Node) -> Node:
        """The node with the taints that it will have."""
        if self.taints is None:
            return node
        return msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, taints=self.taints))

    def body(self, node: Node) -> dict[str, object]:
        """The merge patch. Lists are replaced whole, so with one it carries the version from which it was computed.

        Without one it is bound to the object only: kubelet's writes, which come at any time, are no conflict.
        """
        meta = node.metadata
        metadata: dict[str, object] = {"resourceVersion": meta.resource_version} if self._lists else {"uid": meta.uid}
        if self.labels:
            metadata["labels"] = self.labels
        if self.annotations:
            metadata["annotations"] = self.annotations
        if self.finalizers is not None:
            metadata["finalizers"] = self.finalizers
        if self.owners is not None:
            metadata["ownerReferences"] = [msgspec.to_builtins(owner) for owner in self.owners]
        patch: dict[str, object] = {"metadata": metadata}
        if self.taints is not None:
            patch["spec"] = {"taints": [msgspec.to_builtins(t) for t in self.taints]}
        return patch


def registration_patch(claim: ClaimView, node: Node) -> NodePatch:
    """What the Node lacks to count as registered; empty once it has everything.

    Startup taints are added only before the registered label is there: whoever removed one afterwards meant it.
    """
    ours = {} if owned_by_kaito(claim.labels) else {NODE_CLASS_LABEL: "true"}  # the finalizer needs a mark beside it
    wanted_labels = {**claim.labels, **ours, labels.REGISTERED: "true"}
    wanted_annotations = {k: v for k, v in claim.annotations.items() if k not in _CLAIM_ONLY}
    first_time = node.metadata.labels.get(labels.REGISTERED) != "true"
    taints = [t for t in node.spec.taints if t.key != labels.TAINT_UNREGISTERED]
    if first_time and node.metadata.labels.get(labels.DO_NOT_SYNC_TAINTS) != "true":
        present = {(t.key, t.effect) for t in taints}
        taints += [t for t in (*claim.taints, *claim.startup_taints) if (t.key, t.effect) not in present]
    missing_finalizer = labels.KARPENTER_FINALIZER not in node.metadata.finalizers and not node.metadata.deleting
    return NodePatch(
        labels={k: v for k, v in wanted_labels.items() if node.metadata.labels.get(k) != v},
        annotations={k: v for k, v in wanted_annotations.items() if node.metadata.annotations.get(k) != v},
        taints=taints if taints != node.spec.taints else None,
        finalizers=[*node.metadata.finalizers, labels.KARPENTER_FINALIZER] if missing_finalizer else None,
        owners=_owners(claim, node),
    )


def _owners(claim: ClaimView, node: Node) -> list[OwnerReference] | None:
    """The Node's owners with the claim among them, None where it is there already.

    As Karpenter has it, but without blockOwnerDeletion: the claim's finalizer does that, and setting it may take a right on the
    claim's finalizers that nothing else here needs.
    """
    owners = node.metadata.owner_references
    if any(owner.uid == claim.uid for owner in owners):
        return None
    api = resource_of(claim)
    return [*owners, OwnerReference(api_version=api.api_version, kind=api.kind, name=claim.name, uid=claim.uid)]
