"""Puts the controller together: informers with their selectors and indexes, triggers, reconciler, sweep.

The one place that knows all the parts.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from kaito_api import labels
from kaito_api.core import ConfigMap, ControllerRevision, Node
from kaito_api.meta import Object, Resource
from kaito_api.resources import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    NETWORKPOLICIES,
    NODES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
    VALIDATINGADMISSIONPOLICIES,
    VALIDATINGADMISSIONPOLICYBINDINGS,
    WORKSPACES,
)
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.controller import Controller
from kubecore.errors import NotServed
from kubecore.events import EventRecorder
from kubecore.informer import Informer
from kubecore.manager import Manager
from workspace_controller import caches as index
from workspace_controller.adapter_checks import AdapterChecks
from workspace_controller.applier import MANAGER, Applier
from workspace_controller.caches import Caches
from workspace_controller.catalog import Catalog
from workspace_controller.claims import claim_resource
from workspace_controller.inference.metadata import MANAGER as MANAGED_BY
from workspace_controller.inference.registry_ca import KEY as REGISTRY_CA_KEY
from workspace_controller.inference_config import CONFIG_KEY
from workspace_controller.metrics import Census, Metrics
from workspace_controller.observe import Observer
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.recent import Recent
from workspace_controller.reconciler import Reconciler
from workspace_controller.registry_ca_file import RegistryCaFile
from workspace_controller.settings import Settings
from workspace_controller.sweep import Sweep
from workspace_controller.traces import Traces
from workspace_controller.triggers import Triggers
from workspace_controller.tuning.config import CONFIG_KEY as TRAINING_KEY
from workspace_controller.webhook import Webhook
from workspace_controller.webhook_trust import WebhookTrust

T = TypeVar("T", bound=Object)

_OURS: Final = f"{labels.MANAGED_BY}={MANAGED_BY}"
_OF_WORKSPACES: Final = labels.WORKSPACE
"""Selects every object that carries the label, whatever its value."""
_CONFIG_KEYS: Final = frozenset({CONFIG_KEY, TRAINING_KEY, REGISTRY_CA_KEY})
_SYNC_PATIENCE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Wired:
    """The parts of a controller that others may want to reach."""

    manager: Manager
    caches: Caches
    controller: Controller


async def wire(  # noqa: PLR0917 - what it acts on, what it knows, how it runs
    client: Client,
    catalog: Catalog,
    settings: Settings,
    process: ProcessSettings,
    clock: Clock | None = None,
    registry: CollectorRegistry | None = None,
) -> Wired:
    """Build a controller that is ready to run. Asks the apiserver one thing: whether the claim kind is served.

    Raises RegistryCaError where the file with the registries' authorities cannot be used.
    `registry` takes the controller's own metrics; a process passes the one that /metrics shows.
    """
    clock = clock or SystemClock()
    registry = registry or CollectorRegistry()
    manager = Manager(
        client,
        clock,
        health_port=process.health_port,
        metrics_port=process.metrics_port,
        leader=process.leader,
        drain_seconds=process.drain_seconds,
    )
    caches = build_caches(client, settings, process)
    recent = Recent(clock)
    recorder = manager.add_recorder(EventRecorder(client, MANAGER, clock=clock))
    checks = AdapterChecks(catalog, settings, lambda key: controller.enqueue(key, low_priority=False), clock)
    registry_ca = RegistryCaFile(settings.registry_ca, clock)
    metrics = Metrics(registry)
    traces = Traces.from_environment(metrics) if process.traces else None
    if traces is not None:
        manager.add_task("traces", traces.run)
    reconciler = Reconciler(
        observer=Observer(
            caches,
            recent,
            process.required_policies,
            checks.of,
            registry_ca.text,
            checkpoints=settings.tuning.registry_checkpoints,
        ),
        applier=Applier(client, caches, recent),
        recorder=recorder,
        recent=recent,
        catalog=catalog,
        settings=settings,
        clock=clock,
        metrics=metrics,
        traces=traces,
    )
    registry.register(Census(catalog, caches.workspaces.list, caches.claims.list, lambda: manager.is_leader))
    controller = manager.add_controller(
        Controller("workspace", reconciler.reconcile, workers=process.workers, clock=clock)
    )
    manager.add_task("adapter-checks", checks.run)
    triggers = Triggers(caches, controller.enqueue)
    triggers.connect()
    if settings.registry_ca:
        manager.add_task("registry-ca", lambda: registry_ca.follow(triggers.enqueue_all), leader_only=False)
    await _add_informers(manager, client, caches, triggers)
    claims = claim_resource(settings.claim_api)
    if process.webhook_port is not None:
        manager.add_task(
            "webhook", lambda: _serve_webhook(client, catalog, settings, process, clock), leader_only=False
        )
    manager.add_task("sweep", Sweep(client, caches, claims, clock, process.sweep_seconds).run)
    return Wired(manager, caches, controller)


async def _serve_webhook(
    client: Client, catalog: Catalog, settings: Settings, process: ProcessSettings, clock: Clock
) -> None:
    """Serve the webhook in this replica, leader or not, with certificates of its own or those that are mounted."""
    assert process.webhook_port is not None
    if not process.webhook_configuration:
        await Webhook(catalog, settings, process.webhook_certificates, process.webhook_port).run()
        return
    with tempfile.TemporaryDirectory(prefix="webhook-") as folder:
        trust = WebhookTrust(
            Client(client.transport),  # without the election's fence: a standby answers reviews too
            configuration=process.webhook_configuration,
            host=process.webhook_host,
            replica=process.replica,
            folder=Path(folder),
            clock=clock,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(Webhook(catalog, settings, Path(folder), process.webhook_port).run())
            group.create_task(trust.run())


def build_caches(client: Client, settings: Settings, process: ProcessSettings) -> Caches:
    """Build the informers. Where no label is asked for, strangers matter: a taken name, or a node that the user brings."""

    def plain(res: Resource[T], selector: str | None = None, **indexes: Any) -> Informer[T]:
        return Informer(client, res, label_selector=selector, indexes=indexes)

    workspace_indexes = {
        index.NEEDS: index.by_needs,
        index.CONFIG: index.by_config,
        index.NAMESPACE: index.by_namespace,
        index.OUTPUT: index.output_tags,
        index.BROUGHT: index.brought,
    }
    claim_indexes = {index.WORKSPACE: index.by_claimed_workspace, index.NODE: index.by_claimed_node}
    return Caches(
        workspaces=Informer(client, WORKSPACES, indexes=workspace_indexes),
        claims=Informer(
            client, claim_resource(settings.claim_api), label_selector=_OF_WORKSPACES, indexes=claim_indexes
        ),
        nodes=Informer(client, NODES, indexes={index.WORKSPACE: index.by_node_owner}, prune=_prune_node),
        pods=plain(PODS, _OF_WORKSPACES, workspace=index.by_label),
        statefulsets=plain(STATEFULSETS, owner=index.by_owner),
        services=plain(SERVICES, owner=index.by_owner),
        service_accounts=plain(SERVICEACCOUNTS, _OURS, owner=index.by_owner),
        roles=plain(ROLES, _OURS, owner=index.by_owner),
        role_bindings=plain(ROLEBINDINGS, _OURS, owner=index.by_owner),
        network_policies=plain(NETWORKPOLICIES, _OURS, owner=index.by_owner),
        deployments=plain(DEPLOYMENTS, _OF_WORKSPACES, owner=index.by_owner),
        jobs=plain(JOBS, _OF_WORKSPACES, owner=index.by_owner),
        revisions=Informer(
            client,
            CONTROLLERREVISIONS,
            label_selector=labels.REVISION_OWNER,
            indexes={index.OWNER: index.by_owner},
            prune=_prune_revision,
        ),
        config_maps=Informer(client, CONFIGMAPS, indexes={index.OWNER: index.by_owner}, prune=_prune_config_map),
        namespaces=plain(NAMESPACES),
        policies=plain(VALIDATINGADMISSIONPOLICIES) if process.required_policies else None,
        policy_bindings=plain(VALIDATINGADMISSIONPOLICYBINDINGS) if process.required_policies else None,
    )


async def _add_informers(manager: Manager, client: Client, caches: Caches, triggers: Triggers) -> None:
    """Run every informer. A cluster without the claim kind is served all the same: its informer keeps trying."""
    for informer in caches.all():
        if informer is not caches.claims:
            manager.add_informer(informer)
    try:
        await client.list(caches.claims.res, label_selector=_OF_WORKSPACES)
    except NotServed:
        manager.add_task("claims", caches.claims.run, leader_only=False)
        manager.add_task("claims-arrival", lambda: _announce(caches.claims, triggers))
    else:
        manager.add_informer(caches.claims)


async def _announce(claims: Informer[Any], triggers: Triggers) -> None:
    """Wait for the claim kind to be installed, then look at every Workspace again."""
    while not claims.synced:
        try:
            await claims.wait_synced(_SYNC_PATIENCE)
        except TimeoutError:
            continue
    triggers.enqueue_all()


def _prune_node(node: Node) -> Node:
    return msgspec.structs.replace(node, metadata=msgspec.structs.replace(node.metadata, annotations={}))


def _prune_revision(revision: ControllerRevision) -> ControllerRevision:
    """Drop the stored spec: its hash is all that is compared."""
    return msgspec.structs.replace(revision, data=None)


def _prune_config_map(config_map: ConfigMap) -> ConfigMap:
    """Keep the keys that are read: a cluster's other ConfigMaps may be large. Equal texts, such as authorities, are kept once."""
    kept = {key: sys.intern(value) for key, value in config_map.data.items() if key in _CONFIG_KEYS}
    return msgspec.structs.replace(config_map, data=kept, binary_data={})
