"""The end of a claim: drain its node, let the pool reconciler take the machine, and let go when it is proven gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
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
from kaito_api.conditions import ClaimCondition, ClaimReason, Status, find_condition
from kaito_api.core.node import Node
from kaito_api.meta import Condition, Key
from kaito_api.resources import NODES, PODS
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.errors import ApiError, Conflict, Invalid, NotFound, TooManyRequests, TransportError
from kubecore.events import EventRecorder

PDB_RETRY_SECONDS = 5.0
LOOK_SECONDS = 60.0
SHOWN_REFUSALS = 3
SHOWN_CAUSE = 300
"""Characters: an admission webhook writes what it likes."""
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
        outcome = self._ledger.outcome(claim.uid)
        if nodes or outcome.failure is not None:
            early = self._ledger.deferred(claim.uid, self._clock.monotonic())
            if early > 0:
                return Result(requeue_after=early)
            going = conditions.Step(Status.TRUE, "InstanceTerminating", "the machine is being removed")
            if outcome.failure is not None:
                going = conditions.unknown(outcome.failure.failure, outcome.failure.removal)
                self._events.record(
                    claim, resource_of(claim), "Warning", outcome.failure.failure, outcome.failure.removal
                )
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
                if find_condition(claim.conditions, ClaimCondition.DRAINED) is None:
                    await self._say_draining(claim, step, {}, now)  # an admission webhook may take its time
                refused = await self._evict(node, step.evict)
                await self._say_draining(claim, step, refused, now)
                lasts = (now - claim.deleted).total_seconds() if claim.deleted is not None else 0.0
                again = retry_seconds(list(refused.values()), lasts)
                return Result(requeue_after=self._next_look(again, limit=limit, now=now))
            volumes = self._observer.volumes_on(node.metadata.name)
            if volumes and not overdue and not self._held_by_what_stays(claim, node):
                message = f"still attached: {', '.join(sorted(volumes)[:5])}"
                waits = conditions.unknown(ClaimReason.AWAITING_VOLUME_DETACHMENT, message)
                await self._say(claim, conditions.terminating(claim, conditions.DONE, waits, None, now))
                return Result(requeue_after=self._next_look(LOOK_SECONDS, limit=limit, now=now))
        return None

    async def _say_draining(
        self, claim: ClaimView, step: drain.DrainStep, refused: dict[Key, ApiError | TransportError], now: datetime
    ) -> None:
        latest = self._observer.claim(claim.key) or claim  # this look may have written already
        waits = conditions.unknown(ClaimReason.DRAINING, _still_there(step, refused))
        await self._say(latest, conditions.terminating(latest, waits, waits, None, now))

    def _held_by_what_stays(self, claim: ClaimView, node: Node) -> bool:
        """Whether the volumes still attached are taken to belong to pods that the drain leaves there.

        Which volume is whose would take the right to read every claim for storage; so where such pods are, volumes get the time
        that Kubernetes gives an unmount, and the machine is not paid for beyond that.
        """
        now = self._clock.monotonic()
        since = self._ledger.drained(claim.uid, now)
        staying = any(drain.stays(pod) for pod in self._observer.pods_on(node.metadata.name))
        return staying and now - since >= drain.SHARED_VOLUME_SECONDS

    def _next_look(self, again: float, *, limit: datetime | None, now: datetime) -> float:
        """Pods and volumes wake us by their watch; a refused eviction, the deadline and stuck pods need a timer."""
        until_limit = (limit - now).total_seconds() if limit is not None else LOOK_SECONDS
        return max(0.5, min(again, until_limit))

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

    async def _evict(self, node: Node, evictions: tuple[drain.Eviction, ...]) -> dict[Key, ApiError | TransportError]:
        """Sends the evictions of this step, all at once; returns those that were refused, in their order.

        One that fails, or that an admission webhook leaves without an answer, holds up no other.
        """
        async with asyncio.TaskGroup() as group:
            sent = {e.pod.metadata.key: group.create_task(self._evict_one(e)) for e in evictions}
        refused = {key: error for key, task in sent.items() if (error := task.result()) is not None}
        for key, error in refused.items():
            self._events.record(node, NODES, "Warning", "FailedDraining", _refusal(key, error))
        return refused

    async def _evict_one(self, eviction: drain.Eviction) -> ApiError | TransportError | None:
        """Why the pod was not told to go: a budget, two budgets (a 500), an admission policy, a webhook without an answer."""
        pod = eviction.pod.metadata
        try:
            if eviction.grace is None:
                await self._client.evict(pod.key)
            else:
                await self._client.delete(PODS, pod.key, uid=pod.uid, grace_seconds=eviction.grace)
        except (NotFound, Conflict):
            return None  # gone, or replaced by a namesake: the watch shows what is there now
        except (ApiError, TransportError) as error:
            return error
        return None

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


def retry_seconds(refused: Sequence[Exception], lasts: float) -> float:
    """Seconds until refused evictions are sent again, `lasts` seconds after the deletion was asked for.

    A disruption budget opens by itself, any moment. What else refuses (two budgets for one pod, an admission policy) waits for a
    person: asked ever more seldom, a quarter of the time that it has lasted.
    """
    if not refused:
        return LOOK_SECONDS
    if any(isinstance(error, TooManyRequests) for error in refused):
        return PDB_RETRY_SECONDS
    return min(LOOK_SECONDS, max(PDB_RETRY_SECONDS, lasts / 4))


def _still_there(step: drain.DrainStep, refused: dict[Key, ApiError | TransportError]) -> str:
    names = ", ".join(str(p.metadata.key) for p in step.waiting[:5])
    said = f"{len(step.waiting)} pods are still on the node: {names}"
    return "; ".join((said, *(_refusal(key, error) for key, error in list(refused.items())[:SHOWN_REFUSALS])))


def _refusal(key: Key, error: ApiError | TransportError) -> str:
    cause = error.message if isinstance(error, ApiError) else str(error)
    return f"pod {key} cannot be evicted yet: {cause[:SHOWN_CAUSE]}"
