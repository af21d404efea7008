"""The one place that knows all the parts: informers, controllers, and which change wakes which work."""

from __future__ import annotations

import logging
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from gpu_provisioner.claims.reconciler import ClaimReconciler
from gpu_provisioner.claims.replacement import Replacement
from gpu_provisioner.claims.termination import Terminator
from gpu_provisioner.claims.view import ClaimKind, ClaimView, from_machine, from_node_claim
from gpu_provisioner.cloud.base import AgentPools
from gpu_provisioner.cloud.bucket import FairBucket
from gpu_provisioner.cloud.stockouts import Stockouts
from gpu_provisioner.ledger import Ledger
from gpu_provisioner.metrics import Metrics
from gpu_provisioner.nodes.release import NodeReleaser
from gpu_provisioner.nodes.repair import NodeRepairer
from gpu_provisioner.observe import Observer, pool_of, same_health, vital
from gpu_provisioner.pools.lister import PoolLister
from gpu_provisioner.pools.reconciler import PoolReconciler
from gpu_provisioner.settings import Settings
from kaito_api import labels
from kaito_api.core import VolumeAttachment
from kaito_api.core.node import Node
from kaito_api.core.pod import Pod
from kaito_api.meta import Key, Resource
from kaito_api.resources import MACHINES, NODECLAIMS
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.controller import Controller
from kubecore.errors import ConfigError, NotServed
from kubecore.events import EventRecorder
from kubecore.informer import Event
from kubecore.leader import LeaderConfig
from kubecore.manager import Manager

log = logging.getLogger(__name__)
LEASE = "gpu-provisioner"
EVERYTHING = Key("", "cluster")


async def served_kinds(client: Client) -> set[ClaimKind]:
    """The claim kinds that the cluster has. Raises ConfigError where it has none."""
    kinds = set()
    candidates: tuple[tuple[ClaimKind, Resource[Any]], ...] = (
        (ClaimKind.NODE_CLAIM, NODECLAIMS),
        (ClaimKind.MACHINE, MACHINES),
    )
    for kind, resource in candidates:
        try:
            await client.listing(resource)
        except NotServed:
            log.info("claims of this kind are not served here", extra={"kind": kind})
        else:
            kinds.add(kind)
    if not kinds:
        raise ConfigError(
            "neither NodeClaim (karpenter.sh/v1) nor Machine (karpenter.sh/v1alpha5) is installed: apply crds/ first"
        )
    return kinds


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
        self.clock = clock or SystemClock()
        self.ledger = Ledger()
        self.metrics = Metrics(registry)
        self.observer = Observer(client, kinds)
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
            bucket=FairBucket(settings.put_burst, settings.put_per_minute / 60),
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
        self.claims = add(Controller("claims", claims.reconcile, workers=settings.workers, clock=self.clock))
        self.pools = add(
            Controller("pools", pools.reconcile, workers=settings.workers, reconcile_timeout=120, clock=self.clock)
        )
        self.repair = add(Controller("repair", repair.reconcile, workers=1, clock=self.clock))
        self.release = add(Controller("release", release.reconcile, workers=2, clock=self.clock))
        self.manager.add_task("pool-lister", self.lister.run)
        self._watch()

    def wake_pool(self, name: str) -> None:
        """Look at this agent pool."""
        if name:
            self.pools.enqueue(Key("", name))

    def wake_repair(self) -> None:
        """Look at the health of all nodes."""
        self.repair.enqueue(EVERYTHING)

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

    def _watch(self) -> None:
        if self.observer.node_claims is not None:
            self.observer.node_claims.add_handler(
                lambda e: self._claim_changed(
                    from_node_claim(e.obj), from_node_claim(e.old) if e.old else None, e.new is None, e.echo
                )
            )
            self.manager.add_informer(self.observer.node_claims)
        if self.observer.machines is not None:
            self.observer.machines.add_handler(
                lambda e: self._claim_changed(
                    from_machine(e.obj), from_machine(e.old) if e.old else None, e.new is None, e.echo
                )
            )
            self.manager.add_informer(self.observer.machines)
        self.observer.nodes.add_handler(self._node_changed)
        self.observer.pods.add_handler(self._pod_changed)
        self.observer.attachments.add_handler(self._attachment_changed)
        self.manager.add_informer(self.observer.nodes)
        self.manager.add_informer(self.observer.pods)
        self.manager.add_informer(self.observer.attachments)

    def _claim_changed(self, claim: ClaimView, before: ClaimView | None, gone: bool, echo: bool) -> None:
        if not claim.managed or echo:
            return  # an echo is our own write: whoever wrote it has woken whom it concerns
        self.wake_pool(claim.pool)
        if before is not None and before.pool != claim.pool:
            self.wake_pool(before.pool)
        if gone:
            self.ledger.forget_claim(claim.uid)
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
                self.wake_repair()  # looks at all claims: not for each label
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
