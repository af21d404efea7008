"""Lets a Node go that is being deleted and that no claim holds: our finalizer must not outlive the claim."""

from __future__ import annotations

import contextlib

from gpu_provisioner.claims.view import owned_by_kaito
from gpu_provisioner.observe import Observer
from kaito_api import labels
from kaito_api.core.node import Node
from kaito_api.meta import Key
from kaito_api.resources import NODES
from kubecore.client import Client
from kubecore.controller import Result
from kubecore.errors import NotFound


class NodeReleaser:
    """One key is one Node. Its machine, should it still run, is the pool reconciler's: a machine without a claim."""

    def __init__(self, *, client: Client, observer: Observer) -> None:
        self._client = client
        self._observer = observer

    async def reconcile(self, key: Key) -> Result | None:
        """Takes the finalizer off a deleted Node of ours that has no claim any more."""
        node = self._observer.nodes.get(key)
        if node is None or not node.metadata.deleting or labels.KARPENTER_FINALIZER not in node.metadata.finalizers:
            return None
        if not self._ours(node) or self._observer.all_claims_of_provider(node.spec.provider_id):
            return None
        rest = [f for f in node.metadata.finalizers if f != labels.KARPENTER_FINALIZER]
        patch = {"metadata": {"resourceVersion": node.metadata.resource_version, "finalizers": rest}}
        with contextlib.suppress(NotFound):  # gone by the finalizer that the end of its claim has taken off
            await self._client.patch(NODES, key, patch)
        return None

    def _ours(self, node: Node) -> bool:
        """Whether the finalizer is ours to take off: Karpenter's other providers put the same one on their Nodes."""
        if labels.REGISTERED not in node.metadata.labels:
            return False
        owners = {owner.uid for owner in node.metadata.owner_references}
        return owned_by_kaito(node.metadata.labels) or any(c.uid in owners for c in self._observer.claims())
