"""Replaces claims whose node has been ill for too long, unless so many are ill that something else is wrong."""

from __future__ import annotations

from gpu_provisioner.claims.replacement import Replacement
from gpu_provisioner.claims.view import ClaimView, resource_of
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.nodes.health import TOLERATION_SECONDS, Illness, illness, to_repair
from gpu_provisioner.observe import Observer
from kaito_api import labels
from kaito_api.meta import Key
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.events import EventRecorder

GATHER_SECONDS = 1.0
"""How long changes of nodes are gathered for one look: an illness counts after minutes, and each look costs by claim.

A look for each change took a third of the process's time while 100 nodes became Ready.
"""


class NodeRepairer:
    """One key for the whole cluster, since the brake needs to see all nodes at once."""

    def __init__(
        self,
        *,
        client: Client,
        observer: Observer,
        replacement: Replacement,
        metrics: Metrics,
        events: EventRecorder,
        clock: Clock,
    ) -> None:
        self._client = client
        self._observer = observer
        self._replacement = replacement
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._ill_since: dict[str, float] = {}

    async def reconcile(self, key: Key) -> Result | None:
        """Looks at every claim's node; comes back when the next illness has lasted long enough."""
        now = self._clock.monotonic()
        staying = (c for c in self._observer.claims() if not c.deleting and not self._replacement.asked(c))
        claims = {claim.uid: claim for claim in staying if claim.provider_id}
        reasons = {uid: reason for uid, claim in claims.items() if (reason := self._reason(claim))}
        self._ill_since = {uid: self._ill_since.get(uid, now) for uid in reasons}
        ill = [Illness(uid, reason, self._ill_since[uid]) for uid, reason in reasons.items()]
        self._metrics.unhealthy.set(len(ill))
        due = to_repair(ill, len(claims), now)
        for found in due:
            await self._replace(claims[found.claim], found, now)
        waiting = [found.since + TOLERATION_SECONDS - now for found in ill if found not in due]
        if not waiting:
            return None
        for found in ill:
            if found not in due and now - found.since >= TOLERATION_SECONDS:
                message = f"{found.reason}, but {len(ill)} of {len(claims)} nodes are ill at once: none is replaced"
                claim = claims[found.claim]
                self._events.record(claim, resource_of(claim), "Warning", "NodeRepairBlocked", message)
        return Result(requeue_after=max(5.0, min(waiting)))

    def _reason(self, claim: ClaimView) -> str:
        nodes = self._observer.nodes_of_provider(claim.provider_id)
        if len(nodes) != 1:
            return ""  # none: the pool reconciler asks AKS whether the machine is still there
        return illness(nodes[0])

    async def _replace(self, claim: ClaimView, found: Illness, now: float) -> None:
        """Deletes the claim with a drain that does not wait: the node's pods are lost already."""
        minutes = int((now - found.since) // 60)
        message = f"{found.reason} for {minutes} min; the claim is deleted so that its owner can replace it"
        mark = {"metadata": {"annotations": {labels.TERMINATION_TIMESTAMP: self._clock.now().isoformat()}}}
        await self._client.patch(resource_of(claim), Key("", claim.name), mark)
        await self._replacement.delete(claim, "unhealthy", "NodeUnhealthy", message)
