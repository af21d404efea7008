"""Takes one frozen snapshot of a Workspace from the caches. Reads memory only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kaito_api.core import Node, Pod
from kaito_api.meta import Key, Object, Resource
from kaito_api.resources import (
    CONFIGMAPS,
    JOBS,
    NETWORKPOLICIES,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
)
from kaito_api.workspace import Workspace
from kubecore.informer import Informer
from workspace_controller.adapter_check import Checks
from workspace_controller.caches import OUTPUT, OWNER, WORKSPACE, Caches, config_name, output_tags
from workspace_controller.claims import Claim
from workspace_controller.inference_config import ConfigSource
from workspace_controller.naming import (
    headless_service_name,
    network_policy_name,
    registry_ca_name,
    service_account_name,
    statefulset_name,
)
from workspace_controller.observed import ChildId, Observed
from workspace_controller.output_tags import OutputRival, find_rival
from workspace_controller.recent import Recent
from workspace_controller.selector import SelectorError, node_labels, select

Look = Callable[[Workspace], Checks]
"""What is known about the images of a Workspace's adapters. Must not wait."""


class Observer:
    """Takes snapshots."""

    def __init__(
        self,
        caches: Caches,
        recent: Recent,
        required_policies: tuple[str, ...] = (),
        look: Look | None = None,
        registry_ca: Callable[[], str] = str,
        *,
        checkpoints: bool = True,
    ) -> None:
        """`registry_ca`: the authorities of private registries, in PEM; `checkpoints`: whether runs may keep theirs there."""
        self._caches = caches
        self._recent = recent
        self._policies = required_policies
        self._look = look
        self._registry_ca = registry_ca
        self._checkpoints = checkpoints

    def workspace(self, key: Key) -> Workspace | None:
        """Return the Workspace as we know it, or None."""
        return self._caches.workspaces.get(key)

    def observe(self, workspace: Workspace) -> Observed:
        """Return everything known about `workspace`."""
        key, uid = workspace.metadata.key, workspace.metadata.uid
        caches = self._caches
        claims = tuple(caches.claims.by_index(WORKSPACE, str(key)))
        pods = tuple(caches.pods.by_index(WORKSPACE, str(key)))
        namespace = caches.namespaces.get(Key("", key.namespace))
        return Observed(
            workspace=workspace,
            claim_api_served=caches.claims.synced,
            namespace_terminating=namespace is not None
            and (namespace.metadata.deleting or namespace.status.phase == "Terminating"),
            missing_policies=self._missing_policies(),
            nodes=self._nodes(workspace, claims, pods),
            claims=claims,
            pods=tuple(pod for pod in pods if _works_for(pod, key.name)),
            children=self._children(workspace),
            revisions=tuple(caches.revisions.by_index(OWNER, uid)),
            deployments=tuple(caches.deployments.by_index(OWNER, uid)),
            jobs=tuple(caches.jobs.by_index(OWNER, uid)),
            config=self._config(workspace),
            adapter_checks=self._look(workspace) if self._look is not None else {},
            applied_generations=self._recent.generations(key),
            output_rival=self._output_rival(workspace),
            registry_ca=self._registry_ca(),
        )

    def _nodes(self, workspace: Workspace, claims: tuple[Claim, ...], pods: tuple[Pod, ...]) -> tuple[Node, ...]:
        """Return the nodes that are labelled for the Workspace, fill its claims, run its pods, or match its selector."""
        nodes = self._caches.nodes
        found = {node.metadata.name: node for node in nodes.by_index(WORKSPACE, str(workspace.metadata.key))}
        named = {claim.status.node_name for claim in claims} | {pod.spec.node_name for pod in pods}
        for name in named - {""} - found.keys():
            node = nodes.get(Key("", name))
            if node is not None:
                found[name] = node
        if workspace.resource is not None and not workspace.resource.instance_type:
            found |= {node.metadata.name: node for node in self._matching(workspace)}
        return tuple(found[name] for name in sorted(found))

    def _matching(self, workspace: Workspace) -> tuple[Node, ...]:
        try:
            wanted = node_labels(workspace)
        except SelectorError:  # validation reports it
            return ()
        return select(self._caches.nodes.list(), wanted)

    def _children(self, workspace: Workspace) -> dict[ChildId, Object]:
        """Return all owned children, and whatever stands under the names that the Workspace needs."""
        key, uid = workspace.metadata.key, workspace.metadata.uid
        account = service_account_name(key.name)
        caches = self._caches
        kinds: tuple[tuple[Resource[Any], Informer[Any], tuple[str, ...]], ...] = (
            (SERVICEACCOUNTS, caches.service_accounts, (account,)),
            (ROLES, caches.roles, (account,)),
            (ROLEBINDINGS, caches.role_bindings, (account,)),
            (NETWORKPOLICIES, caches.network_policies, (network_policy_name(key.name),)),
            (CONFIGMAPS, caches.config_maps, (registry_ca_name(key.name),)),
            (SERVICES, caches.services, (key.name, headless_service_name(key.name))),
            (STATEFULSETS, caches.statefulsets, (statefulset_name(key.name),)),
            (JOBS, caches.jobs, (key.name,)),
        )
        seen: dict[ChildId, Object] = {
            ChildId(resource.plural, found.metadata.name): found
            for resource, informer, names in kinds
            for found in _standing(informer, key.namespace, uid, names)
        }
        return {**self._recent.strangers(key), **seen}

    def _config(self, workspace: Workspace) -> ConfigSource | None:
        name = config_name(workspace)
        if not name:
            return None
        found = self._caches.config_maps.get(Key(workspace.metadata.namespace, name))
        return ConfigSource(found=found is not None, data=found.data if found is not None else {})

    def _output_rival(self, workspace: Workspace) -> OutputRival | None:
        found = {
            other.metadata.uid: other
            for tag in output_tags(workspace)
            for other in self._caches.workspaces.by_index(OUTPUT, tag)
        }
        return find_rival(workspace, found.values(), checkpoints=self._checkpoints)

    def _missing_policies(self) -> tuple[str, ...]:
        """Return the demanded policies that are not there, or that no binding of theirs makes deny."""
        policies, bindings = self._caches.policies, self._caches.policy_bindings
        if policies is None or bindings is None:
            return ()
        denying = {b.spec.policy_name for b in bindings.list() if "Deny" in b.spec.validation_actions}
        return tuple(name for name in self._policies if name not in denying or policies.get(Key("", name)) is None)


def _works_for(pod: Pod, workspace: str) -> bool:
    """Whether one of the workloads that a Workspace of that name can have made `pod`; anybody may use the label.

    The workload may be gone already and its UID unknown, so names decide. ReplicaSets are those of KAITO's Deployment.
    """
    owner = pod.metadata.controller
    if owner is None:
        return False
    if owner.kind == "ReplicaSet":
        return owner.name.rpartition("-")[0] == workspace
    return (owner.kind, owner.name) in {(STATEFULSETS.kind, statefulset_name(workspace)), (JOBS.kind, workspace)}


def _standing(informer: Informer[Any], namespace: str, uid: str, names: tuple[str, ...]) -> Iterator[Any]:
    yield from informer.by_index(OWNER, uid)
    for name in names:
        found = informer.get(Key(namespace, name))
        if found is not None:
            yield found
