"""Replaces claims whose node has been ill for too long, unless so many are ill that something else is wrong."""

from __future__ import annotations

from datetime import datetime, timedelta

from gpu_provisioner.claims.view import ClaimView, resource_of
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.nodes.health import TOLERATION, Illness, has_gpu, illness, to_repair
from gpu_provisioner.observe import Observer
from kaito_api import labels, quantity
from kaito_api.meta import Key
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.events import EventRecorder


class NodeRepairer:
    """One key for the whole cluster, since the brake needs to see all nodes at once."""

    def __init__(
        self, *, client: Client, observer: Observer, metrics: Metrics, events: EventRecorder, clock: Clock
    ) -> None:
        self._client = client
        self._observer = observer
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._gpu_missing: dict[str, datetime] = {}

    async def reconcile(self, key: Key) -> Result | None:
        """Looks at every claim's node; comes back when the next illness has lasted long enough."""
        now = self._clock.now()
        claims = {claim.uid: claim for claim in self._observer.claims() if claim.provider_id and not claim.deleting}
        ill = [found for claim in claims.values() if (found := self._illness(claim, now)) is not None]
        due = to_repair(ill, len(claims), now)
        for found in due:
            await self._replace(claims[found.claim], found, now)
        waiting = [found.since + TOLERATION - now for found in ill if found not in due]
        if not waiting:
            return None
        return Result(requeue_after=max(timedelta(seconds=5), min(waiting)).total_seconds())

    def _illness(self, claim: ClaimView, now: datetime) -> Illness | None:
        nodes = self._observer.nodes_of_provider(claim.provider_id)
        if len(nodes) != 1:
            return None
        wants_gpu = quantity.parse(claim.requests.get(labels.RESOURCE_GPU, 0)) > 0 or labels.ACCELERATOR in claim.labels
        if has_gpu(nodes[0]):
            self._gpu_missing.pop(claim.uid, None)
        elif wants_gpu:
            self._gpu_missing.setdefault(claim.uid, now)
        return illness(claim.uid, nodes[0], wants_gpu, self._gpu_missing.get(claim.uid))

    async def _replace(self, claim: ClaimView, found: Illness, now: datetime) -> None:
        """Deletes the claim with a drain that does not wait: the node's pods are lost already."""
        self._gpu_missing.pop(claim.uid, None)
        self._metrics.replaced.labels("unhealthy").inc()
        minutes = int((now - found.since).total_seconds() // 60)
        message = f"{found.reason} for {minutes} min; the claim is deleted so that its owner can replace it"
        self._events.record(claim, resource_of(claim), "Warning", "NodeUnhealthy", message)
        mark = {"metadata": {"annotations": {labels.TERMINATION_TIMESTAMP: now.isoformat()}}}
        await self._client.patch(resource_of(claim), Key("", claim.name), mark)
        await self._client.delete(resource_of(claim), Key("", claim.name), uid=claim.uid)
