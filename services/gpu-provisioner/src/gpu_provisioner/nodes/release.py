"""Lets a Node go that is being deleted and that no claim holds: our finalizer must not outlive the claim."""

from __future__ import annotations

from gpu_provisioner.observe import Observer
from kaito_api import labels
from kaito_api.meta import Key
from kaito_api.resources import NODES
from kubecore.client import Client
from kubecore.controller import Result


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
        registered = labels.REGISTERED in node.metadata.labels
        if not registered or self._observer.claims_of_provider(node.spec.provider_id):
            return None
        rest = [f for f in node.metadata.finalizers if f != labels.KARPENTER_FINALIZER]
        await self._client.patch(
            NODES, key, {"metadata": {"resourceVersion": node.metadata.resource_version, "finalizers": rest}}
        )
        return None
