"""The end of a claim: drain its node, let the pool reconciler take the machine, and let go when it is proven gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime

import msgspec

from gpu_provisioner.claims import conditions
from gpu_provisioner.claims.view import ClaimView, resource_of
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.nodes import drain
from gpu_provisioner.observe import Observer
from gpu_provisioner.pools.plan import Outcome
from kaito_api import labels
from kaito_api.conditions import ClaimReason, Status
from kaito_api.core.node import Node
from kaito_api.meta import Condition, Key
from kaito_api.resources import NODES, PODS
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.errors import Conflict, Invalid, NotFound, TooManyRequests
from kubecore.events import EventRecorder

PDB_RETRY_SECONDS = 5.0
LOOK_SECONDS = 60.0
LATER_SECONDS = 1.0
"""A write that nobody waits for comes this much later, so that it does not stand before the writes that somebody waits for.

With 100 claims at once it halves the p99 of these (benchmarks/provisioner.py).
"""


class Terminator:
    """Finishes deleting claims."""

    def __init__(
        self,
        *,
        client: Client,
        observer: Observer,
        ledger: Ledger,
        metrics: Metrics,
        events: EventRecorder,
        clock: Clock,
        wake_pool: Callable[[str], None],
    ) -> None:
        self._client = client
        self._observer = observer
        self._ledger = ledger
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._wake_pool = wake_pool

    async def finish(self, claim: ClaimView) -> Result | None:
        """One step towards the end of a deleting claim. Without our finalizer there is nothing that we could owe."""
        if not claim.finalized:
            self._ledger.forget_claim(claim.uid)
            return None
        provider_id = claim.provider_id or self._ledger.outcome(claim.uid).provider_id
        nodes = self._observer.nodes_of_provider(provider_id)
        if not claim.pool or self._ledger.outcome(claim.uid).outcome is Outcome.GONE:
            return await self._let_go(claim, nodes)
        if claim.uid not in self._ledger.released:
            result = await self._drain(claim, nodes)
            if result is not None:
                return result
            self._ledger.released.add(claim.uid)
            self._ledger.defer(claim.uid, self._clock.monotonic() + LATER_SECONDS)
            self._wake_pool(claim.pool)
        if nodes:
            early = self._ledger.deferred(claim.uid, self._clock.monotonic())
            if early > 0:
                return Result(requeue_after=early)
            going = conditions.Step(Status.TRUE, "InstanceTerminating", "the machine is being removed")
            now = self._clock.now()
            await self._say(claim, conditions.terminating(claim, conditions.DONE, conditions.DONE, going, now))
        return None

    async def _drain(self, claim: ClaimView, nodes: tuple[Node, ...]) -> Result | None:
        """Cordon and evict; None when nothing is left on the nodes."""
        now = self._clock.now()
        limit = drain.deadline(
            claim.deleted, claim.annotations.get(labels.TERMINATION_TIMESTAMP), claim.termination_grace_period
        )
        overdue = limit is not None and now >= limit
        for node in nodes:
            await self._cordon(node)
            step = drain.drain_step(self._observer.pods_on(node.metadata.name), now, limit)
            if not step.done:
                names = ", ".join(str(p.metadata.key) for p in step.waiting[:5])
                waits = conditions.unknown(
                    ClaimReason.DRAINING, f"{len(step.waiting)} pods are still on the node: {names}"
                )
                await self._say(claim, conditions.terminating(claim, waits, waits, None, now))
                refused = await self._evict(node, step.evict)
                return Result(requeue_after=self._next_look(refused=refused, limit=limit, now=now))
            volumes = self._observer.volumes_on(node.metadata.name)
            if volumes and not overdue and not self._held_by_what_stays(claim, node):
                message = f"still attached: {', '.join(sorted(volumes)[:5])}"
                waits = conditions.unknown(ClaimReason.AWAITING_VOLUME_DETACHMENT, message)
                await self._say(claim, conditions.terminating(claim, conditions.DONE, waits, None, now))
                return Result(requeue_after=self._next_look(refused=False, limit=limit, now=now))
        return None

    def _held_by_what_stays(self, claim: ClaimView, node: Node) -> bool:
        """Whether the volumes still attached are taken to belong to pods that the drain leaves there.

        Which volume is whose would take the right to read every claim for storage; so where such pods are, volumes get the time
        that Kubernetes gives an unmount, and the machine is not paid for beyond that.
        """
        now = self._clock.monotonic()
        since = self._ledger.drained(claim.uid, now)
        staying = any(drain.stays(pod) for pod in self._observer.pods_on(node.metadata.name))
        return staying and now - since >= drain.SHARED_VOLUME_SECONDS

    def _next_look(self, *, refused: bool, limit: datetime | None, now: datetime) -> float:
        """Pods and volumes wake us by their watch; a refused eviction, the deadline and stuck pods need a timer."""
        until_limit = (limit - now).total_seconds() if limit is not None else LOOK_SECONDS
        return max(0.5, min(PDB_RETRY_SECONDS if refused else LOOK_SECONDS, until_limit))

    async def _cordon(self, node: Node) -> None:
        taints = drain.cordon(node)
        if taints is None:
            return
        patch = {
            "metadata": {
                "resourceVersion": node.metadata.resource_version,
                "labels": {drain.EXCLUDE_FROM_LB: "karpenter"},
            },
            "spec": {"taints": [msgspec.to_builtins(t) for t in taints]},
        }
        self._observer.nodes.record(await self._client.patch(NODES, node.metadata.key, patch))

    async def _evict(self, node: Node, evictions: tuple[drain.Eviction, ...]) -> bool:
        """Sends the evictions of this step; True when a PodDisruptionBudget refused one."""
        refused = False
        for eviction in evictions:
            key = eviction.pod.metadata.key
            try:
                if eviction.grace is None:
                    await self._client.evict(key)
                else:
                    uid = eviction.pod.metadata.uid
                    await self._client.delete(PODS, key, uid=uid, grace_seconds=eviction.grace)
            except TooManyRequests as error:
                refused = True
                message = f"pod {key} cannot be evicted yet: {error.message}"
                self._events.record(node, NODES, "Warning", "FailedDraining", message)
            except (NotFound, Conflict):
                continue  # gone, or replaced by a namesake: the watch shows what is there now
        return refused

    async def _let_go(self, claim: ClaimView, nodes: tuple[Node, ...]) -> Result | None:
        """The machine is gone: its Node and then the claim lose the finalizer. Neither depends on the status."""
        for node in nodes:
            finalizers = [f for f in node.metadata.finalizers if f != labels.KARPENTER_FINALIZER]
            if finalizers != node.metadata.finalizers:
                patch = {"metadata": {"resourceVersion": node.metadata.resource_version, "finalizers": finalizers}}
                with contextlib.suppress(NotFound):  # the cloud's controller was faster
                    await self._client.patch(NODES, node.metadata.key, patch)
            if not node.metadata.deleting:
                await self._client.delete(NODES, node.metadata.key, uid=node.metadata.uid)
        resource = resource_of(claim)
        rest = [f for f in claim.finalizers if f != labels.KARPENTER_FINALIZER]
        body = {"metadata": {"uid": claim.uid, "resourceVersion": claim.resource_version, "finalizers": rest}}
        with contextlib.suppress(NotFound):  # somebody took the finalizer off by hand
            await self._client.patch(resource, Key("", claim.name), body)
        self._metrics.terminated.inc()
        pool = claim.pool
        self._ledger.forget_claim(claim.uid)
        if pool:
            self._wake_pool(pool)
        return None

    async def _say(self, claim: ClaimView, said: list[Condition]) -> None:
        """Writes the conditions of the deletion. A claim stored under an older schema may refuse them: the end goes on."""
        if said is claim.conditions:
            return
        resource = resource_of(claim)
        body = {
            "metadata": {"resourceVersion": claim.resource_version},
            "status": {"conditions": [msgspec.to_builtins(c) | {"status": str(c.status)} for c in said]},
        }
        try:
            written = await self._client.patch(resource, Key("", claim.name), body, subresource="status")
            self._observer.record(claim, written)
        except Invalid as error:
            self._events.record(claim, resource, "Warning", "StatusRefused", error.message)
        except (Conflict, NotFound):
            return
