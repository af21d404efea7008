"""Carries out the decision for one agent pool: observe -> plan -> one cloud call -> tell the claims."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from gpu_provisioner.claims.options import InvalidClaim, parse_option
from gpu_provisioner.claims.view import LAUNCH_OPTION_ANNOTATION, ClaimView
from gpu_provisioner.cloud.base import AgentPools
from gpu_provisioner.cloud.bucket import CallLimits, Verb
from gpu_provisioner.cloud.failure import NEXT_OPTION, CloudError, CloudFailure, FailureClass
from gpu_provisioner.cloud.stockouts import Stockouts
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.observe import Observer
from gpu_provisioner.pools.plan import (
    Action,
    CloudPool,
    DeleteMachines,
    Demand,
    Machine,
    Outcome,
    PoolDecision,
    PoolObservation,
    Put,
    plan_pool,
)
from gpu_provisioner.pools.restraint import restrain
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
        limits: CallLimits,
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
        self._limits = limits
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
        claims, decision, wait = await self._informed(key.name)
        self._tell(claims, decision)
        if decision.action is not None:
            return await self._act(key.name, claims, decision.action, decision.failure)
        pool = self._ledger.pool(key.name)
        if pool is not None and not pool.settled:
            self._wake_list()
        waits = [seconds for seconds in (decision.recheck_after, wait) if seconds is not None]
        return Result(requeue_after=min(waits)) if waits else None

    async def _informed(self, name: str) -> tuple[list[ClaimView], PoolDecision, float | None]:
        """The decision, after the cloud was asked for what it rests on; and seconds, where a question has to wait its turn.

        A question without an answer holds up nothing but what rests on it, and the claims learn why they wait.
        """
        listed: frozenset[str] | None = None
        claims, decision = self._decide(name, listed)
        if not decision.wants_pool and not decision.wants_machines:
            return claims, decision, None
        try:
            if decision.wants_pool:
                if wait := self._turn(Verb.READ, name, claims):
                    return claims, decision, wait
                await self._look(name)
                claims, decision = self._decide(name, listed)
            if decision.wants_machines:
                if wait := self._turn(Verb.READ, name, claims):
                    return claims, decision, wait
                listed = await self._cloud.machines(name)
                self._ledger.machines_listed_now(name, self._clock.monotonic())
                claims, decision = self._decide(name, listed)
            for machine in decision.wants_proof:
                if wait := self._turn(Verb.READ, name, claims):
                    return *self._decide(name, listed), wait
                if not await self._cloud.has_machine(name, machine):
                    self._ledger.machine_absent(name, machine)
            self._ledger.succeeded(name, Verb.READ)
        except CloudError as error:
            self._metrics.failures.labels(error.failure.failure).inc()
            log.warning("cannot read the agent pool", extra={"pool": name, "reason": str(error)})
            self._hold(name, Verb.READ, error.failure)
        return *self._decide(name, listed), None

    def _turn(self, verb: Verb, name: str, claims: list[ClaimView]) -> float:
        """0.0 when AKS's limit allows this call now, else the seconds after which to ask again."""
        wait = self._limits.take(verb, name, claims[0].owner if claims else name, self._clock.monotonic())
        if wait > 0:
            (self._metrics.throttled if verb is Verb.PUT else self._metrics.deferred.labels(verb)).inc()
        return wait

    async def _look(self, name: str) -> None:
        """Asks for this very pool: its 404 is the proof that a LIST is not."""
        pool = await self._cloud.get(name)
        if pool is None:
            self._ledger.hide(name, self._clock.monotonic())
        else:
            self._ledger.show(pool, self._clock.monotonic())

    def _decide(self, name: str, listed: frozenset[str] | None) -> tuple[list[ClaimView], PoolDecision]:
        claims = self._observer.claims_of_pool(name)
        self._ledger.claimed_by(name, [claim.uid for claim in claims])
        now = self._clock.monotonic()
        seen = self._observe(name, claims, listed, now)
        return claims, restrain(seen, plan_pool(seen, now), now)

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
        demands = [self._demand(c, now) for c in claims if c.finalized]
        needed = sum(1 for each in demands if each.provider_id or not each.deleting)
        return PoolObservation(
            claims=tuple(self._awaiting(each, name, needed, now) for each in demands),
            pool=self._ledger.pool(name),
            known=self._ledger.known(name),
            unproven=self._ledger.unproven(name),
            first_seen=self._ledger.first_seen(name),
            machines=machines,
            listed=listed,
            listed_at=self._ledger.machines_listed(name),
            blocked=self._ledger.blocked(name, now),
            blocked_for=self._ledger.blocked_for(name, now),
            absent=self._ledger.absent_machines(name),
            holds=self._ledger.holds(name, now),
            unreadable=None if self._ledger.known(name) else self._ledger.unreadable,
            working_since=self._ledger.working_since(name),
        )

    def _demand(self, claim: ClaimView, now: float) -> Demand:
        provider_id = claim.provider_id or self._ledger.outcome(claim.uid).provider_id
        missed = bool(provider_id) and not self._observer.nodes_of_provider(provider_id)
        return Demand(
            uid=claim.uid,
            provider_id=provider_id,
            deleting=claim.deleting or claim.uid in self._ledger.moving,
            released=claim.uid in self._ledger.released,
            missed_since=self._ledger.node_missed(provider_id, now) if missed else None,
        )

    def _awaiting(self, claim: Demand, name: str, needed: int, now: float) -> Demand:
        since = None if claim.provider_id else self._ledger.awaited(claim.uid, name, needed, now)
        return msgspec.structs.replace(claim, awaited_since=since)

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
        operation = failure.failure is FailureClass.STUCK or (pool is not None and pool.failure == failure)
        if operation:  # a call's failure was counted when it failed
            self._metrics.failures.labels(failure.failure).inc()
        option = parse_option(claim.annotations.get(LAUNCH_OPTION_ANNOTATION, ""))
        if option is not None and failure.failure in NEXT_OPTION:
            self._stockouts.record(option, failure, self._clock.monotonic())

    async def _act(
        self, name: str, claims: list[ClaimView], action: Action, reason: CloudFailure | None
    ) -> Result | None:
        if not self._leading():
            return None  # the lease ran out: whoever holds it now decides
        verb = _verb(action)
        self._limits.only(verb, name, claims[0].owner if claims else name)
        if wait := self._turn(verb, name, claims):
            return Result(requeue_after=wait)
        self._ledger.doubt(name, self._clock.monotonic())
        try:
            if isinstance(action, Put):
                await self._put(name, claims, action.count)
            elif isinstance(action, DeleteMachines):
                await self._cloud.delete_machines(name, action.names)
            else:
                await self._delete(name)
        except CloudError as error:
            return self._failed(name, verb, error.failure)
        finally:
            self._wake_list()
        self._metrics.calls.labels(verb).inc()
        if reason is not None:
            self._ledger.block(name, reason, self._clock.monotonic())
        # Claims that were told of a failure learn that it is over.
        return Result(requeue_after=0.05) if self._ledger.succeeded(name, verb) else None

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
        for claim in claims:
            self._ledger.asked_anew(claim.uid)

    async def _delete(self, name: str) -> None:
        if await self._cloud.delete(name):
            pool = self._ledger.pool(name)
            if pool is not None:
                self._ledger.show(
                    msgspec.structs.replace(pool, state="Deleting", failure=None), self._clock.monotonic()
                )
        else:
            self._ledger.hide(name, self._clock.monotonic())

    def _failed(self, name: str, verb: Verb, failure: CloudFailure) -> Result | None:
        """A call failed: remember until when, and look at the pool again. The next decision tells the claims."""
        now = self._clock.monotonic()
        self._metrics.failures.labels(failure.failure).inc()
        if failure.failure in _UNCERTAIN:
            self._ledger.doubt(name, now)  # a LIST that began before this moment does not tell whether it was done
        else:
            self._ledger.sure(name)
        if verb is not Verb.PUT:
            self._hold(name, verb, failure)
            return Result(requeue_after=0.05)
        if failure.failure is FailureClass.THROTTLED:
            self._limits.pause(verb, failure.retry_after, now)
        if failure.failure not in (FailureClass.CONFLICT, FailureClass.NOT_FOUND):
            self._ledger.block(name, failure, now)
        return Result(requeue_after=0.05 if self._ledger.known(name) else failure.retry_after)

    def _hold(self, name: str, verb: Verb, failure: CloudFailure) -> None:
        now = self._clock.monotonic()
        self._ledger.hold(name, verb, failure, now)
        if failure.failure is FailureClass.THROTTLED:
            self._limits.pause(verb, failure.retry_after, now)


def _verb(action: Action) -> Verb:
    if isinstance(action, Put):
        return Verb.PUT
    return Verb.DELETE_MACHINES if isinstance(action, DeleteMachines) else Verb.DELETE
