"""What a claim's Node gets when it joins: Karpenter's marks, and the claim's labels, annotations and taints."""

from __future__ import annotations

import msgspec

from gpu_provisioner.claims.view import AGENT_POOL_ANNOTATION, LAUNCH_OPTION_ANNOTATION, ClaimView
from kaito_api import labels
from kaito_api.core.node import Node, Taint

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

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.labels and not self.annotations and self.taints is None and self.finalizers is None

    def body(self, node: Node) -> dict[str, object]:
        """The merge patch. Lists are replaced whole, so the patch carries the version that it was computed from."""
        metadata: dict[str, object] = {"resourceVersion": node.metadata.resource_version}
        if self.labels:
            metadata["labels"] = self.labels
        if self.annotations:
            metadata["annotations"] = self.annotations
        if self.finalizers is not None:
            metadata["finalizers"] = self.finalizers
        patch: dict[str, object] = {"metadata": metadata}
        if self.taints is not None:
            patch["spec"] = {"taints": [msgspec.to_builtins(t) for t in self.taints]}
        return patch


def registration_patch(claim: ClaimView, node: Node) -> NodePatch:
    """What the Node lacks to count as registered; empty once it has everything.

    Startup taints are added only before the registered label is there: whoever removed one afterwards meant it.
    """
    wanted_labels = {**claim.labels, labels.REGISTERED: "true"}
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
    )
