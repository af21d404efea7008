"""What is known about one Workspace at one moment: the only input of the plan besides catalog, settings and the time.

Frozen and complete: everything in it belongs to this Workspace already (by owner, by label or by name), so that the
plan never searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from kaito_api.core import ControllerRevision, Deployment, Job, Node, Pod, StatefulSet
from kaito_api.meta import Object, Resource
from kaito_api.resources import STATEFULSETS
from kaito_api.workspace import Workspace
from workspace_controller.adapter_check import Checks
from workspace_controller.claims import Claim
from workspace_controller.inference_config import ConfigSource
from workspace_controller.naming import statefulset_name
from workspace_controller.output_tags import OutputRival


class ChildId(NamedTuple):
    """A kind (its plural) and a name in the Workspace's namespace."""

    plural: str
    name: str


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot."""

    workspace: Workspace
    claim_api_served: bool = True
    """Whether the apiserver serves the configured claim kind at all."""
    namespace_terminating: bool = False
    missing_policies: tuple[str, ...] = ()
    """Admission policies that must stand before rights are granted to a workload, and do not."""
    nodes: tuple[Node, ...] = ()
    """Nodes that carry the Workspace's labels, match its selector or fill one of its claims."""
    claims: tuple[Claim, ...] = ()
    """Claims that carry the Workspace's labels, whatever UID they were made for."""
    pods: tuple[Pod, ...] = ()
    children: Mapping[ChildId, Object] = {}
    """Objects that stand under the names the Workspace needs, and all that it owns. Some may be somebody else's."""
    revisions: tuple[ControllerRevision, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    jobs: tuple[Job, ...] = ()
    config: ConfigSource | None = None
    """The ConfigMap that the spec names; None where it names none."""
    output_rival: OutputRival | None = None
    adapter_checks: Checks = {}
    """Looks at the adapters' images, for those that anybody can read; an image that is not there was not looked at."""
    registry_ca: str = ""
    """PEM certificates of the authorities of private registries; "" where the operator names none."""
    applied_generations: Mapping[str, int] = {}
    """By UID: the generation that our last apply gave. A higher one means that somebody else changed the object."""

    def child(self, resource: Resource[Any], name: str) -> Object | None:
        """Return the object of that kind and name in the Workspace's namespace, whoever owns it."""
        return self.children.get(ChildId(resource.plural, name))

    def owns(self, found: Object) -> bool:
        """Whether `found` is controlled by this very Workspace (by UID: a namesake's children are strangers)."""
        owner = found.metadata.controller
        return owner is not None and owner.uid == self.workspace.metadata.uid

    @property
    def busy_nodes(self) -> frozenset[str]:
        """Names of the nodes on which pods of the Workspace run and are to stay."""
        stay = [pod for pod in self.pods if not pod.metadata.deleting and not pod.finished]
        return frozenset(pod.spec.node_name for pod in stay if pod.spec.node_name)

    @property
    def statefulset(self) -> StatefulSet | None:
        """The Workspace's own StatefulSet, if it exists."""
        found = self.child(STATEFULSETS, statefulset_name(self.workspace.metadata.name))
        return found if isinstance(found, StatefulSet) and self.owns(found) else None
