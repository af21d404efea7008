"""Deletes a live claim whose machine is lost, so that whoever made the claim makes another."""

from __future__ import annotations

from gpu_provisioner.claims.view import ClaimView, resource_of
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from kaito_api.meta import Key
from kubecore.client import Client
from kubecore.events import EventRecorder


class Replacement:
    """Asks for the deletion of a claim once, and counts and says it once it is granted."""

    def __init__(self, *, client: Client, ledger: Ledger, metrics: Metrics, events: EventRecorder) -> None:
        self._client = client
        self._ledger = ledger
        self._metrics = metrics
        self._events = events

    def asked(self, claim: ClaimView) -> bool:
        """Whether the deletion was granted already: the watch has yet to show it."""
        return claim.uid in self._ledger.replaced

    async def delete(self, claim: ClaimView, cause: str, reason: str, message: str) -> None:
        """Delete `claim` for `cause` (of the metric), and record `reason` and `message` as an event."""
        resource = resource_of(claim)
        await self._client.delete(resource, Key("", claim.name), uid=claim.uid)
        self._ledger.replaced.add(claim.uid)
        self._metrics.replaced.labels(cause).inc()
        self._events.record(claim, resource, "Warning", reason, message)
