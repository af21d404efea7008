"""Carries out the decision for one agent pool: observe -> plan -> one cloud call -> tell the claims."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from gpu_provisioner.claims.options import InvalidClaim, parse_option
from gpu_provisioner.claims.view import LAUNCH_OPTION_ANNOTATION, ClaimView
from gpu_provisioner.cloud.base import AgentPools
from gpu_provisioner.cloud.bucket import FairBucket
from gpu_provisioner.cloud.failure import NEXT_OPTION, CloudError, CloudFailure, FailureClass
from gpu_provisioner.cloud.stockouts import Stockouts
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.observe import Observer
from gpu_provisioner.pools.plan import (
    CloudPool,
    Delete,
    DeleteMachines,
    Demand,
    Machine,
    Outcome,
    PoolDecision,
    PoolObservation,
    Put,
    plan_pool,
)
from gpu_provisioner.pools.shape import pool_body, pool_shape
from kaito_api.meta import Key
from kubecore.clock import Clock
from kubecore.controller import Result

log = logging.getLogger(__name__)
_UNCERTAIN = frozenset({FailureClass.SERVER, FailureClass.CONFLICT, FailureClass.NOT_FOUND})
"""After these the pool may be other than we thought: it is read anew before the next decision."""


class PoolReconciler:
    """One key is one pool name; the work queue never runs a key twice at once, which serialises the verbs per pool."""

    def __init__(
        self,
        *,
        observer: Observer,
        cloud: AgentPools,
        ledger: Ledger,
        bucket: FairBucket,
        stockouts: Stockouts,
        metrics: Metrics,
        clock: Clock,
        wake_claim: Callable[[Key], None],
        wake_list: Callable[[], None],
        leading: Callable[[], bool],
    ) -> None:
        """`leading`: whether this replica may still change anything; asked right before each change."""
        self._observer = observer
        self._cloud = cloud
        self._ledger = ledger
        self._bucket = bucket
        self._stockouts = stockouts
        self._metrics = metrics
        self._clock = clock
        self._wake_claim = wake_claim
        self._wake_list = wake_list
        self._leading = leading
        self._refused: dict[str, str] = {}
        """By pool the eTag with which a PUT met a conflict."""

    async def reconcile(self, key: Key) -> Result | None:
        """One look at the pool `key.name`."""
        name = key.name
        claims, decision = self._decide(name, None)
        try:
            if decision.wants_pool:
                await self._look(name)
                claims, decision = self._decide(name, None)
            if decision.wants_machines:
                listed = await self._cloud.machines(name)
                self._ledger.machines_listed_now(name, self._clock.monotonic())
                claims, decision = self._decide(name, listed)
        except CloudError as error:
            self._metrics.failures.labels(error.failure.failure).inc()
            log.warning("cannot read the agent pool", extra={"pool": name, "reason": str(error)})
            return Result(requeue_after=error.failure.retry_after)
        self._tell(claims, decision)
        if decision.action is None:
            pool = self._ledger.pool(name)
            if pool is not None and not pool.settled:
                self._wake_list()
            return Result(requeue_after=decision.recheck_after) if decision.recheck_after is not None else None
        return await self._act(name, claims, decision)

    async def _look(self, name: str) -> None:
        """Asks for this very pool: its 404 is the proof that a LIST is not."""
        pool = await self._cloud.get(name)
        if pool is None:
            self._ledger.hide(name, self._clock.monotonic())
        else:
            self._ledger.show(pool, self._clock.monotonic())

    def _decide(self, name: str, listed: frozenset[str] | None) -> tuple[list[ClaimView], PoolDecision]:
        claims = self._observer.claims_of_pool(name)
        now = self._clock.monotonic()
        return claims, plan_pool(self._observe(name, claims, listed, now), now)

    def _observe(
        self, name: str, claims: list[ClaimView], listed: frozenset[str] | None, now: float
    ) -> PoolObservation:
        machines = tuple(
            Machine(
                name=node.metadata.name,
                provider_id=node.spec.provider_id,
                first_seen=self._ledger.machine_first_seen(node.spec.provider_id, now),
            )
            for node in self._observer.nodes_of_pool(name)
        )
        return PoolObservation(
            claims=tuple(self._demand(c, now) for c in claims if c.finalized),
            pool=self._ledger.pool(name),
            known=self._ledger.known(name),
            unproven=self._ledger.unproven(name),
            first_seen=self._ledger.first_seen(name),
            machines=machines,
            listed=listed,
            listed_at=self._ledger.machines_listed(name),
            blocked=self._ledger.blocked(name, now),
            blocked_for=self._ledger.blocked_for(name, now),
        )

    def _demand(self, claim: ClaimView, now: float) -> Demand:
        provider_id = claim.provider_id or self._ledger.outcome(claim.uid).provider_id
        missed = bool(provider_id) and not self._observer.nodes_of_provider(provider_id)
        pool = self._ledger.pool(claim.pool)
        awaited = not provider_id and pool is not None and pool.state == "Succeeded"
        return Demand(
            uid=claim.uid,
            provider_id=provider_id,
            deleting=claim.deleting or claim.uid in self._ledger.moving,
            released=claim.uid in self._ledger.released,
            missed_since=self._ledger.node_missed(provider_id, now) if missed else None,
            awaited_since=self._ledger.awaited(claim.uid, now) if awaited else None,
        )

    def _tell(self, claims: list[ClaimView], decision: PoolDecision) -> None:
        by_uid = {claim.uid: claim for claim in claims}
        for outcome in decision.outcomes:
            claim = by_uid.get(outcome.uid)
            if claim is None or self._ledger.outcomes.get(outcome.uid) == outcome:
                continue
            self._ledger.outcomes[outcome.uid] = outcome
            if outcome.outcome is Outcome.FAILED and outcome.failure is not None:
                self._note(claim, outcome.failure, self._ledger.pool(claim.pool))
            self._wake_claim(claim.key)

    def _note(self, claim: ClaimView, failure: CloudFailure, pool: CloudPool | None) -> None:
        if pool is not None and pool.failure == failure:  # an operation's; a call's was counted when it failed
            self._metrics.failures.labels(failure.failure).inc()
        option = parse_option(claim.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        if option is not None and failure.failure in NEXT_OPTION:
            self._stockouts.record(option, failure, self._clock.monotonic())

    async def _act(self, name: str, claims: list[ClaimView], decision: PoolDecision) -> Result | None:
        action = decision.action
        if not self._leading():
            return None  # the lease ran out: whoever holds it now decides
        owner = claims[0].owner if claims else name
        now = self._clock.monotonic()
        if isinstance(action, Put):
            wait = self._bucket.take(name, owner, now)
            if wait > 0:
                self._metrics.throttled.inc()
                return Result(requeue_after=wait)
        else:
            self._bucket.leave(name, owner)
        self._ledger.doubt(name, now)
        try:
            if isinstance(action, Put):
                await self._put(name, claims, action.count)
            elif isinstance(action, Delete):
                await self._delete(name)
            elif isinstance(action, DeleteMachines):
                await self._cloud.delete_machines(name, action.names)
                self._metrics.calls.labels("deleteMachines").inc()
        except CloudError as error:
            return self._failed(name, error.failure)
        finally:
            self._wake_list()
        return None

    async def _put(self, name: str, claims: list[ClaimView], count: int) -> None:
        live = next(c for c in claims if not c.deleting and c.uid not in self._ledger.moving)
        option = parse_option(live.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        shape = pool_shape(live, option) if option is not None else InvalidClaim("the launch option is missing")
        if isinstance(shape, InvalidClaim):
            failure = CloudFailure(
                failure=FailureClass.BAD_INPUT, code="", message=shape.message, retry_after=60.0, permanent=True
            )
            raise CloudError(failure)
        before = self._ledger.pool(name)
        replaces = before
        if before is not None and self._refused.get(name) == before.etag:
            replaces = msgspec.structs.replace(
                before, etag=""
            )  # read anew it is still this one: the condition is not honoured
        try:
            await self._cloud.put(name, pool_body(shape, count), replaces=replaces)
        except CloudError as error:
            if before is not None and error.failure.failure is FailureClass.CONFLICT:
                self._refused[name] = before.etag
            raise
        self._refused.pop(name, None)
        state = "Creating" if before is None else "Updating"
        accepted = CloudPool(name=name, state=state, count=count, owned=True, vm_size=shape.option.vm_size)
        self._ledger.show(accepted, self._clock.monotonic())
        self._metrics.calls.labels("put").inc()

    async def _delete(self, name: str) -> None:
        if await self._cloud.delete(name):
            pool = self._ledger.pool(name)
            if pool is not None:
                self._ledger.show(
                    msgspec.structs.replace(pool, state="Deleting", failure=None), self._clock.monotonic()
                )
        else:
            self._ledger.hide(name, self._clock.monotonic())
        self._metrics.calls.labels("delete").inc()

    def _failed(self, name: str, failure: CloudFailure) -> Result | None:
        """A call failed: remember until when, and look at the pool again. The next decision tells the claims."""
        now = self._clock.monotonic()
        self._metrics.failures.labels(failure.failure).inc()
        if failure.failure is FailureClass.THROTTLED:
            self._bucket.pause(failure.retry_after, now)
        if failure.failure in _UNCERTAIN:
            self._ledger.doubt(name, now)  # a LIST that began before this moment does not tell whether it was done
        else:
            self._ledger.sure(name)
        if failure.failure not in (FailureClass.CONFLICT, FailureClass.NOT_FOUND):
            self._ledger.block(name, failure, now)
        return Result(requeue_after=0.05 if self._ledger.known(name) else failure.retry_after)
