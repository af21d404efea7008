"""Which Workspaces a change concerns. Handlers only enqueue keys: what is to be done is read from the caches later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from kaito_api import labels
from kaito_api.core import ConfigMap, Namespace, Node, Pod
from kaito_api.meta import Key, Object
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace
from kubecore.informer import Event
from workspace_controller.caches import ALL, BROUGHT, CONFIG, NAMESPACE, NEEDS, NODE, OUTPUT, Caches, output_tags
from workspace_controller.claims import Claim, workspace_of
from workspace_controller.selector import SelectorError, node_labels


class Enqueue(Protocol):
    """Asks for a reconcile."""

    def __call__(self, key: Key, low_priority: bool = False) -> None:
        """Ask for a reconcile of the Workspace `key`."""


class Triggers:
    """Maps the events of every informer to Workspaces and enqueues those."""

    def __init__(self, caches: Caches, enqueue: Enqueue) -> None:
        self._caches = caches
        self._enqueue = enqueue

    def connect(self) -> None:
        """Listen to every cache."""
        caches = self._caches
        caches.workspaces.add_handler(self._handler(lambda found: [found.metadata.key]))
        caches.workspaces.add_handler(self._on_rival)
        caches.claims.add_handler(self._handler(self._of_claim))
        caches.nodes.add_handler(self._on_node)
        caches.pods.add_handler(self._handler(_of_pod))
        caches.config_maps.add_handler(self._handler(self._of_config_map))
        caches.namespaces.add_handler(self._on_namespace)
        for informer in (
            caches.statefulsets,
            caches.services,
            caches.service_accounts,
            caches.roles,
            caches.role_bindings,
            caches.network_policies,
            caches.deployments,
            caches.jobs,
            caches.revisions,
        ):
            informer.add_handler(self._handler(self._of_child))
        for fence in (caches.policies, caches.policy_bindings):
            if fence is not None:
                fence.add_handler(self._handler(lambda _: self._every()))

    def enqueue_all(self) -> None:
        """Ask for a reconcile of every Workspace."""
        for key in self._every():
            self._enqueue(key, low_priority=True)

    def _handler(self, keys_of: Callable[[Any], Iterable[Key]]) -> Callable[[Event[Any]], None]:
        """Return a handler that enqueues the Workspaces of the object before and after the change.

        An echo of our own write is no news: the reconcile that wrote it knew it already.
        """

        def handle(event: Event[Any]) -> None:
            if event.echo:
                return
            states = [state for state in (event.old, event.new) if state is not None]
            for key in {key for state in states for key in keys_of(state)}:
                self._enqueue(key, low_priority=event.initial)

        return handle

    def _on_node(self, event: Event[Node]) -> None:
        """Enqueue for what a plan reads of a node; kubelet rewrites the rest (annotations, images) all the time."""
        old, new = event.old, event.new
        if old is not None and new is not None and old is not new and _facts(old) == _facts(new):
            return
        for key in {key for state in (old, new) if state is not None for key in self._of_node(state)}:
            self._enqueue(key, low_priority=event.initial)

    def _on_rival(self, event: Event[Workspace]) -> None:
        """Enqueue those that wait for a tag when the Workspace that writes there goes or lets go of it."""
        old, new = event.old, event.new
        if old is None:
            return
        still = set(output_tags(new)) if new is not None and not new.metadata.deleting else set()
        for tag in set(output_tags(old)) - still:
            for other in self._caches.workspaces.by_index(OUTPUT, tag):
                self._enqueue(other.metadata.key)

    def _on_namespace(self, event: Event[Namespace]) -> None:
        """Enqueue when a namespace begins to go: nothing can be created in it any more."""
        if event.obj.status.phase == "Terminating":
            for workspace in self._caches.workspaces.by_index(NAMESPACE, event.key.name):
                self._enqueue(workspace.metadata.key)

    def _of_claim(self, claim: Claim) -> list[Key]:
        key = workspace_of(claim)
        return [key] if key.name and key.namespace else []

    def _of_child(self, child: Object) -> list[Key]:
        """Return the Workspace that owns the child, or those that need its name and find it taken."""
        owner = child.metadata.controller
        if owner is not None and owner.kind == WORKSPACES.kind:
            return [Key(child.metadata.namespace, owner.name)]
        return [found.metadata.key for found in self._caches.workspaces.by_index(NEEDS, str(child.metadata.key))]

    def _of_node(self, node: Node) -> list[Key]:
        found = node.metadata.labels
        keys = [
            key for claim in self._caches.claims.by_index(NODE, node.metadata.name) for key in self._of_claim(claim)
        ]
        if labels.WORKSPACE in found:
            keys.append(Key(found.get(labels.WORKSPACE_NAMESPACE, ""), found[labels.WORKSPACE]))
        brought = self._caches.workspaces.by_index(BROUGHT, ALL)
        return keys + [workspace.metadata.key for workspace in brought if _selects(workspace, node)]

    def _of_config_map(self, config_map: ConfigMap) -> list[Key]:
        """Return the Workspaces that name it in their spec, and whose child it is or whose child's name it has."""
        named = self._caches.workspaces.by_index(CONFIG, str(config_map.metadata.key))
        return [*self._of_child(config_map), *(workspace.metadata.key for workspace in named)]

    def _every(self) -> list[Key]:
        return [workspace.metadata.key for workspace in self._caches.workspaces.list()]


def _of_pod(pod: Pod) -> list[Key]:
    name = pod.metadata.labels.get(labels.WORKSPACE)
    return [Key(pod.metadata.namespace, name)] if name else []


def _facts(node: Node) -> tuple[object, ...]:
    return (node.metadata.labels, node.metadata.deletion_timestamp, node.spec, node.status)


def _selects(workspace: Workspace, node: Node) -> bool:
    try:
        return node_labels(workspace).items() <= node.metadata.labels.items()
    except SelectorError:  # validation reports it
        return False
