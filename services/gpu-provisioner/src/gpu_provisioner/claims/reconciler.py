"""The checklist loop of a claim: not ours? deleting? finalizer and pool chosen; then one look, one write."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gpu_provisioner.claims import conditions
from gpu_provisioner.claims.options import InvalidClaim, LaunchOption, launch_options, parse_option
from gpu_provisioner.claims.plan import (
    ClaimPlan,
    ClaimStatus,
    invalid_status,
    plan_claim,
    status_patch,
    unregistered_status,
)
from gpu_provisioner.claims.replacement import Replacement
from gpu_provisioner.claims.termination import LATER_SECONDS, Terminator
from gpu_provisioner.claims.view import AGENT_POOL_ANNOTATION, LAUNCH_OPTION_ANNOTATION, ClaimView, resource_of
from gpu_provisioner.cloud.failure import NEXT_OPTION
from gpu_provisioner.cloud.stockouts import Stockouts
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import PHASES, Metrics
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION
from gpu_provisioner.nodes.registration import NodePatch
from gpu_provisioner.observe import Observer
from gpu_provisioner.pools.plan import ClaimOutcome, Outcome
from gpu_provisioner.pools.shape import pool_name, pool_shape
from kaito_api import labels
from kaito_api.conditions import ClaimReason
from kaito_api.core.node import Node
from kaito_api.meta import Key
from kaito_api.resources import NODES
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.errors import NotFound
from kubecore.events import EventKind, EventRecorder


class ClaimReconciler:
    """One key is one claim: Key(kind, name)."""

    def __init__(
        self,
        *,
        client: Client,
        observer: Observer,
        ledger: Ledger,
        stockouts: Stockouts,
        terminator: Terminator,
        replacement: Replacement,
        metrics: Metrics,
        events: EventRecorder,
        clock: Clock,
        shared_pools: bool,
        wake_pool: Callable[[str], None],
        wake_repair: Callable[[], None],
    ) -> None:
        self._client = client
        self._observer = observer
        self._ledger = ledger
        self._stockouts = stockouts
        self._terminator = terminator
        self._replacement = replacement
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._shared = shared_pools
        self._wake_pool = wake_pool
        self._wake_repair = wake_repair

    async def reconcile(self, key: Key) -> Result | None:
        """One look at the claim."""
        claim = self._observer.claim(key)
        if claim is None or not claim.managed:
            return None
        if claim.deleting:
            return await self._terminator.finish(claim)
        if claim.provider_id:  # what is bought is not judged again: an earlier release may have had other rules
            return await self._follow(claim, ()) if claim.finalized else await self._finalize(claim)
        options = launch_options(claim)
        if isinstance(options, InvalidClaim):
            return await self._refuse(claim, options)
        if not claim.finalized or not claim.pool or self._moved(claim):
            return await self._choose(claim, options)
        return await self._follow(claim, options)

    async def _follow(self, claim: ClaimView, options: tuple[LaunchOption, ...]) -> Result | None:
        """What the pool's last decision and the Node mean for a claim that has a pool."""
        if not claim.provider_id and claim.uid not in self._ledger.outcomes:
            self._wake_pool(
                claim.pool
            )  # its decision comes first: buying must not queue behind writing what we wait for
            return None
        outcome = self._ledger.outcome(claim.uid)
        if outcome.outcome is Outcome.WAITING and not claim.provider_id:
            early = self._ledger.deferred(claim.uid, self._clock.monotonic())
            if early > 0:
                return Result(requeue_after=early)  # first the pools of other claims are bought
        nodes = self._observer.nodes_of_provider(claim.provider_id or outcome.provider_id)
        if await self._lost(claim, outcome, nodes):
            return None
        if outcome.outcome is Outcome.FAILED:
            self._next_option(claim, options)
        option = parse_option(claim.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        plan = plan_claim(claim, outcome, nodes, option, self._clock.now())
        return await self._write(claim, plan, nodes)

    async def _choose(self, claim: ClaimView, options: tuple[LaunchOption, ...]) -> Result | None:
        """Finalizer, alternative and pool name in one patch: nothing is bought before this is stored."""
        now = self._clock.monotonic()
        stored = parse_option(claim.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        keep = stored is not None and stored in options and claim.uid not in self._ledger.moving
        option = stored if keep and stored is not None else self._stockouts.choose(options, now) or options[0]
        shape = pool_shape(claim, option)
        name = shape if isinstance(shape, InvalidClaim) else pool_name(claim, shape, shared=self._shared)
        if isinstance(name, InvalidClaim):
            return await self._refuse(claim, name)
        finalizers = claim.finalizers if claim.finalized else [*claim.finalizers, labels.KARPENTER_FINALIZER]
        patch = {
            "metadata": {
                "resourceVersion": claim.resource_version,
                "finalizers": finalizers,
                "annotations": {AGENT_POOL_ANNOTATION: name, LAUNCH_OPTION_ANNOTATION: str(option)},
            }
        }
        if claim.uid in self._ledger.moving:
            self._ledger.unblock(name)  # what failed was the other alternative, even where the pool keeps its name
        self._observer.record(claim, await self._client.patch(resource_of(claim), Key("", claim.name), patch))
        self._ledger.forget_claim(claim.uid)
        self._ledger.defer(claim.uid, now + LATER_SECONDS)
        for pool in {name, claim.pool}:
            self._wake_pool(pool)
        return None  # the pool's decision brings the next look

    async def _finalize(self, claim: ClaimView) -> Result:
        """The finalizer of a claim whose machine exists already: its pool is what it is."""
        finalizers = [*claim.finalizers, labels.KARPENTER_FINALIZER]
        patch = {"metadata": {"resourceVersion": claim.resource_version, "finalizers": finalizers}}
        self._observer.record(claim, await self._client.patch(resource_of(claim), Key("", claim.name), patch))
        return Result(requeue_after=0.0)

    def _moved(self, claim: ClaimView) -> bool:
        """Whether the claim has left its old pool and may choose another."""
        return claim.uid in self._ledger.moving and self._ledger.outcome(claim.uid).outcome is Outcome.GONE

    def _next_option(self, claim: ClaimView, options: tuple[LaunchOption, ...]) -> None:
        """After a failure of a class that another alternative may avoid: leave this pool, if there is one left to try."""
        failure = self._ledger.outcome(claim.uid).failure
        current = parse_option(claim.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        if failure is None or failure.failure not in NEXT_OPTION or claim.provider_id:
            return
        alternative = self._stockouts.choose(options, self._clock.monotonic())
        if alternative is None or alternative == current:
            return
        message = f"{failure.failure} for {current}: {failure.message} Trying {alternative} next."
        self._event(claim, "Warning", failure.failure, message)
        self._ledger.moving.add(claim.uid)
        self._wake_pool(claim.pool)

    async def _refuse(self, claim: ClaimView, invalid: InvalidClaim) -> Result | None:
        self._event(claim, "Warning", "InvalidClaim", invalid.message)
        await self._write(claim, ClaimPlan(status=invalid_status(claim, invalid.message, self._clock.now())), ())
        return None

    async def _lost(self, claim: ClaimView, outcome: ClaimOutcome, nodes: tuple[Node, ...]) -> bool:
        """Whether the claim's machine is lost; the claim is then deleted."""
        if self._replacement.asked(claim):
            return True
        if outcome.outcome is Outcome.VANISHED:
            await self._replace(claim, "vanished", "its machine no longer exists")
        elif outcome.outcome is Outcome.NEVER_JOINED:
            await self._give_up(claim, outcome.message)
        elif any(node.metadata.deleting for node in nodes):
            await self._replace(claim, "node deleted", "its node was deleted")
        else:
            return False
        return True

    async def _replace(self, claim: ClaimView, cause: str, message: str) -> None:
        """A live claim whose machine is lost is deleted: whoever made it makes another."""
        said = f"{message}; the claim is deleted so that its owner can replace it"
        await self._replacement.delete(claim, cause, "MachineLost", said)

    async def _give_up(self, claim: ClaimView, message: str) -> None:
        """The machine never joined. The condition is written first: whoever made the claim sees why it goes."""
        await self._write(claim, ClaimPlan(status=unregistered_status(claim, message, self._clock.now())), ())
        await self._replacement.delete(claim, "never joined", ClaimReason.REGISTRATION_TIMEOUT, message)

    async def _write(self, claim: ClaimView, plan: ClaimPlan, nodes: tuple[Node, ...]) -> Result | None:
        """In the plan's order; what nobody waits for is left to a later look once a status was written."""
        if not plan.node.empty and not await self._patch_node(nodes[0], plan.node):
            return None
        resource, key = resource_of(claim), Key("", claim.name)
        status = status_patch(claim, plan.status)
        if status is not None:
            self._observer.record(claim, await self._client.patch(resource, key, status, subresource="status"))
            self._announce(claim, plan.status)
            if plan.status.provider_id != claim.provider_id:
                self._wake_repair()  # only now it sees the claim's node, which may be ill already
            self._ledger.defer(claim.uid, self._clock.monotonic() + LATER_SECONDS)
        early = self._ledger.deferred(claim.uid, self._clock.monotonic())
        if early > 0:
            return Result(requeue_after=early) if plan.labels or not plan.node_later.empty else None
        if not plan.node_later.empty and not await self._patch_node(nodes[0], plan.node_later):
            return None
        if plan.labels:
            metadata = {"resourceVersion": claim.resource_version, "labels": plan.labels}
            self._observer.record(claim, await self._client.patch(resource, key, {"metadata": metadata}))
        return None

    async def _patch_node(self, node: Node, patch: NodePatch) -> bool:
        """False when the node went meanwhile: its watch brings us back."""
        try:
            self._observer.nodes.record(await self._client.patch(NODES, node.metadata.key, patch.body(node)))
        except NotFound:
            return False
        if GPU_SEEN_ANNOTATION in patch.annotations:
            self._wake_repair()  # from now on a GPU is missed, perhaps since before; the echo of our own write wakes nobody
        return True

    def _announce(self, claim: ClaimView, status: ClaimStatus) -> None:
        """Metrics and events for the steps that this write has completed or failed."""
        after = msgspec.structs.replace(claim, conditions=status.conditions)
        for phase in PHASES:
            if conditions.is_done(after, phase) and not conditions.is_done(claim, phase) and claim.created is not None:
                self._metrics.phase.labels(phase).observe((self._clock.now() - claim.created).total_seconds())
        outcome = self._ledger.outcome(claim.uid)
        if outcome.outcome is Outcome.FAILED and outcome.failure is not None:
            self._event(claim, "Warning", outcome.failure.failure, str(outcome.failure))

    def _event(self, claim: ClaimView, type_: EventKind, reason: str, message: str) -> None:
        self._events.record(claim, resource_of(claim), type_, reason, message)
