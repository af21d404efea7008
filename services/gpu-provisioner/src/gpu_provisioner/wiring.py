"""The one place that knows all the parts: informers, controllers, and which change wakes which work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry

from gpu_provisioner.claims.reconciler import ClaimReconciler
from gpu_provisioner.claims.replacement import Replacement
from gpu_provisioner.claims.termination import Terminator
from gpu_provisioner.claims.view import ClaimKind, ClaimView, from_machine, from_node_claim
from gpu_provisioner.cloud.base import AgentPools
from gpu_provisioner.cloud.bucket import CallLimits, FairBucket
from gpu_provisioner.cloud.stockouts import Stockouts
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.nodes.release import NodeReleaser
from gpu_provisioner.nodes.repair import GATHER_SECONDS, NodeRepairer
from gpu_provisioner.observe import Observer, pool_of, same_health, vital
from gpu_provisioner.pools.lister import PoolLister
from gpu_provisioner.pools.reconciler import PoolReconciler
from gpu_provisioner.settings import Settings
from kaito_api import labels
from kaito_api.core import VolumeAttachment
from kaito_api.core.node import Node
from kaito_api.core.pod import Pod
from kaito_api.machine import Machine
from kaito_api.meta import Key, Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.controller import Controller
from kubecore.errors import ApiError, ConfigError, NotServed, TransportError
from kubecore.events import EventRecorder
from kubecore.informer import Event, Informer
from kubecore.leader import LeaderConfig
from kubecore.manager import Manager

log = logging.getLogger(__name__)
T = TypeVar("T", NodeClaim, Machine)
LEASE = "gpu-provisioner"
EVERYTHING = Key("", "cluster")
ARRIVAL_SECONDS = 10.0
"""Interval at which a claim kind that is not installed is looked for: shorter than the age at which a pool without a claim goes,
since a replica that takes over may know pools before it knows their claims."""


async def served_kinds(client: Client) -> set[ClaimKind]:
    """The claim kinds that the cluster has. Raises ConfigError where it has none."""
    kinds = set()
    candidates: tuple[tuple[ClaimKind, Resource[Any]], ...] = (
        (ClaimKind.NODE_CLAIM, NODECLAIMS),
        (ClaimKind.MACHINE, MACHINES),
    )
    for kind, resource in candidates:
        if await _served(client, resource):
            kinds.add(kind)
        else:
            log.info("claims of this kind are not served here yet", extra={"kind": kind})
    if not kinds:
        raise ConfigError(
            "neither NodeClaim (karpenter.sh/v1) nor Machine (karpenter.sh/v1alpha5) is installed: apply crds/ first"
        )
    return kinds


async def _served(client: Client, resource: Resource[Any]) -> bool:
    try:
        await client.listing(resource)
    except NotServed:
        return False
    return True


class Provisioner:
    """The assembled service: give it a client and a cloud, then await `manager.run()`."""

    def __init__(
        self,
        *,
        client: Client,
        cloud: AgentPools,
        kinds: set[ClaimKind],
        settings: Settings,
        clock: Clock | None = None,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """`kinds`: those that the cluster has, without which no work begins. One that is installed later is served then."""
        self.clock = clock or SystemClock()
        self.ledger = Ledger()
        self.metrics = Metrics(registry)
        self._client = client
        self.observer = Observer(client)
        leader = LeaderConfig(name=LEASE, namespace=settings.namespace) if settings.leader_elect else None
        self.manager = Manager(
            client, self.clock, health_port=settings.health_port, metrics_port=settings.metrics_port, leader=leader
        )
        events = self.manager.add_recorder(EventRecorder(client, "gpu-provisioner", clock=self.clock))
        stockouts = Stockouts()
        self.lister = PoolLister(
            cloud=cloud,
            ledger=self.ledger,
            metrics=self.metrics,
            clock=self.clock,
            active_seconds=settings.list_active_seconds,
            idle_seconds=settings.list_idle_seconds,
            wake_pool=self.wake_pool,
            awaited=self.awaited,
            busy=self.busy,
        )
        terminator = Terminator(
            client=client,
            observer=self.observer,
            ledger=self.ledger,
            metrics=self.metrics,
            events=events,
            clock=self.clock,
            wake_pool=self.wake_pool,
        )
        replacement = Replacement(client=client, ledger=self.ledger, metrics=self.metrics, events=events)
        claims = ClaimReconciler(
            client=client,
            observer=self.observer,
            ledger=self.ledger,
            stockouts=stockouts,
            terminator=terminator,
            replacement=replacement,
            metrics=self.metrics,
            events=events,
            clock=self.clock,
            shared_pools=settings.shared_pools,
            wake_pool=self.wake_pool,
            wake_repair=self.wake_repair,
        )
        pools = PoolReconciler(
            observer=self.observer,
            cloud=cloud,
            ledger=self.ledger,
            limits=CallLimits(
                put=FairBucket(settings.put_burst, settings.put_per_minute / 60),
                call_burst=settings.call_burst,
                calls_per_second=settings.calls_per_second,
            ),
            stockouts=stockouts,
            metrics=self.metrics,
            clock=self.clock,
            wake_claim=self.wake_claim,
            wake_list=self.lister.request,
            leading=lambda: self.manager.is_leader,
        )
        repair = NodeRepairer(
            client=client,
            observer=self.observer,
            replacement=replacement,
            metrics=self.metrics,
            events=events,
            clock=self.clock,
        )
        release = NodeReleaser(client=client, observer=self.observer)
        add = self.manager.add_controller
        self.claims = add(Controller("claims", claims.reconcile, workers=settings.claim_workers, clock=self.clock))
        self.pools = add(
            Controller("pools", pools.reconcile, workers=settings.workers, reconcile_timeout=120, clock=self.clock)
        )
        self.repair = add(Controller("repair", repair.reconcile, workers=1, clock=self.clock))
        self.release = add(Controller("release", release.reconcile, workers=2, clock=self.clock))
        self.manager.add_task("pool-lister", self.lister.run)
        self.manager.add_task("first-health-check", self._check_health)
        self._watch(kinds)

    def wake_pool(self, name: str) -> None:
        """Look at this agent pool."""
        if name:
            self.pools.enqueue(Key("", name))

    def wake_repair(self) -> None:
        """Look at the health of all nodes: once for all that change together, since one look goes through all claims."""
        self.repair.enqueue_after(EVERYTHING, GATHER_SECONDS)

    async def _check_health(self) -> None:
        """What fell ill while nobody led changes no more: nothing else would bring a look at it."""
        self.wake_repair()

    def wake_claim(self, key: Key) -> None:
        """Look at this claim."""
        self.claims.enqueue(key)

    def awaited(self) -> set[str]:
        """Pools that a claim waits for, whether they exist or not."""
        return {c.pool for c in self.observer.claims() if c.pool and (c.deleting or not c.provider_id)}

    def busy(self) -> bool:
        """Whether the shared LIST has something to wait for."""
        claims = self.observer.claims()
        pending = sum(1 for c in claims if not c.deleting and not c.provider_id)
        self.metrics.pending.set(pending)
        return (
            pending > 0
            or any(c.deleting for c in claims)
            or any(pool.owned and not pool.settled for pool in self.ledger.pools)
        )

    def _watch(self, kinds: set[ClaimKind]) -> None:
        self.observer.node_claims.add_handler(partial(self._changed, from_node_claim))
        self.observer.machines.add_handler(partial(self._changed, from_machine))
        self._add_claims(self.observer.node_claims, served=ClaimKind.NODE_CLAIM in kinds)
        self._add_claims(self.observer.machines, served=ClaimKind.MACHINE in kinds)
        self.observer.nodes.add_handler(self._node_changed)
        self.observer.pods.add_handler(self._pod_changed)
        self.observer.attachments.add_handler(self._attachment_changed)
        self.manager.add_informer(self.observer.nodes)
        self.manager.add_informer(self.observer.pods)
        self.manager.add_informer(self.observer.attachments)

    def _add_claims(self, informer: Informer[T], *, served: bool) -> None:
        """Runs the informer; where its kind is not served, the start does not wait for it."""
        if served:
            self.manager.add_informer(informer)
        else:
            name = f"{informer.res.plural}-arrival"
            self.manager.add_task(name, partial(self._run_once_served, informer), leader_only=False)

    async def _run_once_served(self, informer: Informer[T]) -> None:
        """Looks now and then whether the kind has been installed: no other right than that on claims is needed for it."""
        resource = informer.res
        while True:
            try:
                if await _served(self._client, resource):
                    break
            except (ApiError, TransportError) as error:
                log.warning("cannot look for a claim kind", extra={"kind": resource.kind, "reason": str(error)})
            await self.clock.sleep(ARRIVAL_SECONDS)
        log.info("claims of this kind are served from now on", extra={"kind": resource.kind})
        await informer.run()

    def _changed(self, view: Callable[[T], ClaimView], event: Event[T]) -> None:
        if not event.echo:  # an echo is our own write: whoever wrote it has woken whom it concerns
            self._claim_changed(view(event.obj), view(event.old) if event.old else None, event.new is None)

    def _claim_changed(self, claim: ClaimView, before: ClaimView | None, gone: bool) -> None:
        if not claim.managed:
            return
        self.wake_pool(claim.pool)
        if before is not None and before.pool != claim.pool:
            self.wake_pool(before.pool)
        if gone:
            self.ledger.forget_claim(claim.uid)
            for node in self.observer.nodes_of_provider(claim.provider_id):
                if node.metadata.deleting:  # somebody took the claim's finalizer off by hand
                    self.release.enqueue(node.metadata.key)
            return
        self.claims.enqueue(claim.key)
        if not claim.deleting and claim.pool and not claim.provider_id:
            self.lister.request()

    def _node_changed(self, event: Event[Node]) -> None:
        node = event.obj
        # A change that our own write has overtaken in the cache shows the same object twice: it is news all the same.
        overtaken = event.old is event.new
        if event.new is None:
            self.ledger.forget_machine(node.spec.provider_id)
        elif event.echo or (event.old is not None and not overtaken and vital(event.old) == vital(event.new)):
            return
        if event.old is None or event.new is None:
            self.wake_pool(pool_of(node))
        for claim in (*self.observer.claims_of_provider(node.spec.provider_id), *self._being_bound(node)):
            self.claims.enqueue(claim.key)
        if labels.REGISTERED in node.metadata.labels:
            if not node.ready or overtaken or (event.old is not None and not same_health(event.old, node)):
                self.wake_repair()
            if node.metadata.deleting:
                self.release.enqueue(node.metadata.key)

    def _being_bound(self, node: Node) -> list[ClaimView]:
        """Claims whose binding to this node is decided but does not stand in the cache yet."""
        found = self.observer.claims_of_pool(pool_of(node))
        provider_id = node.spec.provider_id
        return [c for c in found if not c.provider_id and self.ledger.outcome(c.uid).provider_id == provider_id != ""]

    def _pod_changed(self, event: Event[Pod]) -> None:
        if event.new is None or event.new.finished or event.new.metadata.deleting:
            self._wake_drain(event.obj.spec.node_name)

    def _attachment_changed(self, event: Event[VolumeAttachment]) -> None:
        if event.new is None:
            self._wake_drain(event.obj.spec.node_name)

    def _wake_drain(self, node_name: str) -> None:
        node = self.observer.nodes.get(Key("", node_name)) if node_name else None
        if node is None or not node.spec.provider_id:
            return
        for claim in self.observer.claims_of_provider(node.spec.provider_id):
            if claim.deleting:
                self.claims.enqueue(claim.key)
