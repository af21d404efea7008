"""The informers of the controller and what they are indexed by. Reads only; who starts and feeds them is wiring's business."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from kaito_api import labels
from kaito_api.core import (
    ConfigMap,
    ControllerRevision,
    Deployment,
    Job,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Role,
    RoleBinding,
    Service,
    ServiceAccount,
    StatefulSet,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
)
from kaito_api.meta import Key, Object, Resource
from kaito_api.workspace import Workspace
from kubecore.informer import Informer
from workspace_controller.claims import Claim, workspace_of
from workspace_controller.naming import headless_service_name, registry_ca_name, statefulset_name
from workspace_controller.output_tags import written_tags

OWNER: Final = "owner"
"""Index by the UID of the controlling owner."""
WORKSPACE: Final = "workspace"
"""Index by the Workspace (namespace/name) that the labels name."""
NODE: Final = "node"
"""Index of claims by the name of their node."""
NEEDS: Final = "needs"
"""Index of Workspaces by the names (namespace/name) of the Services, StatefulSet and ConfigMap that they need."""
CONFIG: Final = "config"
"""Index of Workspaces by the ConfigMap (namespace/name) that their spec names."""
OUTPUT: Final = "output"
"""Index of tuning Workspaces by the tags that they may write."""
NAMESPACE: Final = "namespace"
BROUGHT: Final = "brought"
"""Index of Workspaces whose nodes the user brings: value ALL."""
ALL: Final = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """Everything that the controller knows of the cluster."""

    workspaces: Informer[Workspace]
    nodes: Informer[Node]
    pods: Informer[Pod]
    statefulsets: Informer[StatefulSet]
    services: Informer[Service]
    service_accounts: Informer[ServiceAccount]
    roles: Informer[Role]
    role_bindings: Informer[RoleBinding]
    network_policies: Informer[NetworkPolicy]
    deployments: Informer[Deployment]
    jobs: Informer[Job]
    revisions: Informer[ControllerRevision]
    config_maps: Informer[ConfigMap]
    namespaces: Informer[Namespace]
    claims: Informer[Any]
    """Not synced while the cluster does not serve the configured kind."""
    policies: Informer[ValidatingAdmissionPolicy] | None = None
    """None where no admission policy is demanded."""
    policy_bindings: Informer[ValidatingAdmissionPolicyBinding] | None = None
    """The same."""

    def of(self, resource: Resource[Any]) -> Informer[Any]:
        """Return the informer of that kind. Raises LookupError for a kind that is not cached."""
        for informer in self.all():
            if informer.res is resource:
                return informer
        raise LookupError(f"{resource.plural} are not cached")

    def all(self) -> list[Informer[Any]]:
        """Return every informer there is."""
        found = [getattr(self, field.name) for field in fields(self)]
        return [informer for informer in found if informer is not None]


def by_owner(found: Object) -> Iterator[str]:
    """Index a child by the UID of its controller."""
    owner = found.metadata.controller
    if owner is not None:
        yield owner.uid


def by_label(found: Object) -> Iterator[str]:
    """Index a namespaced object by the Workspace that its label names."""
    name = found.metadata.labels.get(labels.WORKSPACE)
    if name:
        yield str(Key(found.metadata.namespace, name))


def by_claimed_workspace(claim: Claim) -> Iterator[str]:
    """Index a claim by its Workspace."""
    yield str(workspace_of(claim))


def by_claimed_node(claim: Claim) -> Iterator[str]:
    """Index a claim by its node."""
    if claim.status.node_name:
        yield claim.status.node_name


def by_node_owner(node: Node) -> Iterator[str]:
    """Index a node by the Workspace that its labels name."""
    found = node.metadata.labels
    if labels.WORKSPACE in found:
        yield str(Key(found.get(labels.WORKSPACE_NAMESPACE, ""), found[labels.WORKSPACE]))


def by_needs(workspace: Workspace) -> Iterator[str]:
    """Index a Workspace by the names that it needs in its namespace."""
    meta = workspace.metadata
    for name in {
        meta.name,
        statefulset_name(meta.name),
        headless_service_name(meta.name),
        registry_ca_name(meta.name),
    }:
        yield str(Key(meta.namespace, name))


def by_config(workspace: Workspace) -> Iterator[str]:
    """Index a Workspace by the ConfigMap that it names."""
    name = config_name(workspace)
    if name:
        yield str(Key(workspace.metadata.namespace, name))


def output_tags(workspace: Workspace) -> Iterator[str]:
    """Index a tuning Workspace by the tags that it may write, those of checkpoints included."""
    yield from written_tags(workspace, checkpoints=True)


def by_namespace(workspace: Workspace) -> Iterator[str]:
    """Index a Workspace by its namespace."""
    yield workspace.metadata.namespace


def brought(workspace: Workspace) -> Iterator[str]:
    """Index the Workspaces whose nodes the user brings."""
    if workspace.resource is not None and not workspace.resource.instance_type:
        yield ALL


def config_name(workspace: Workspace) -> str:
    """Return the name of the ConfigMap that the spec names, or ""."""
    part = workspace.inference or workspace.tuning
    return part.config if part is not None else ""
