"""The provisioner's look at the cluster: informer caches, and the questions that the decisions ask of them."""

from __future__ import annotations

from gpu_provisioner.claims.view import ClaimKind, ClaimView, chosen_pool, from_machine, from_node_claim
from gpu_provisioner.nodes.health import GPU_SEEN_ANNOTATION
from kaito_api import labels
from kaito_api.core import VolumeAttachment
from kaito_api.core.node import Node
from kaito_api.core.pod import Pod
from kaito_api.machine import Machine
from kaito_api.meta import Key
from kaito_api.nodeclaim import NodeClaim
from kaito_api.resources import MACHINES, NODECLAIMS, NODES, PODS, VOLUMEATTACHMENTS
from kubecore.client import Client
from kubecore.informer import Informer

BY_PROVIDER = "provider-id"
BY_POOL = "agent-pool"
BY_NODE = "node"


class Observer:
    """Informers on claims of both kinds, Nodes, Pods and VolumeAttachments. A kind that the cluster lacks stays empty."""

    def __init__(self, client: Client) -> None:
        self.node_claims: Informer[NodeClaim] = Informer(
            client,
            NODECLAIMS,
            indexes={BY_PROVIDER: lambda c: _some(c.status.provider_id), BY_POOL: _pool_of_claim},
        )
        self.machines: Informer[Machine] = Informer(
            client,
            MACHINES,
            indexes={BY_PROVIDER: lambda m: _some(m.status.provider_id), BY_POOL: _pool_of_claim},
        )
        self.nodes: Informer[Node] = Informer(
            client,
            NODES,
            indexes={
                BY_PROVIDER: lambda n: _some(n.spec.provider_id),
                BY_POOL: lambda n: _some(pool_of(n)),
            },
        )
        self.pods: Informer[Pod] = Informer(client, PODS, indexes={BY_NODE: lambda p: _some(p.spec.node_name)})
        self.attachments: Informer[VolumeAttachment] = Informer(
            client, VOLUMEATTACHMENTS, indexes={BY_NODE: lambda a: _some(a.spec.node_name)}
        )

    def claim(self, key: Key) -> ClaimView | None:
        """The claim of a work-queue key, managed or not."""
        if key.namespace == ClaimKind.MACHINE:
            machine = self.machines.get(Key("", key.name))
            return from_machine(machine) if machine else None
        claim = self.node_claims.get(Key("", key.name))
        return from_node_claim(claim) if claim else None

    def record(self, claim: ClaimView, written: NodeClaim | Machine) -> None:
        """Takes the answer to our own write into the cache, so that the next look rests on it."""
        if claim.kind is ClaimKind.MACHINE and isinstance(written, Machine):
            self.machines.record(written)
        elif isinstance(written, NodeClaim):
            self.node_claims.record(written)

    def claims(self) -> list[ClaimView]:
        """All claims that this provisioner manages."""
        found = [from_node_claim(c) for c in self.node_claims.list()]
        found += [from_machine(m) for m in self.machines.list()]
        return [claim for claim in found if claim.managed]

    def claims_of_pool(self, pool: str) -> list[ClaimView]:
        """Managed claims that chose this pool, oldest first."""
        found = [from_node_claim(c) for c in self.node_claims.by_index(BY_POOL, pool)]
        found += [from_machine(m) for m in self.machines.by_index(BY_POOL, pool)]
        managed = [claim for claim in found if claim.managed]
        return sorted(managed, key=lambda c: (c.created.timestamp() if c.created else 0.0, c.kind, c.name))

    def claims_of_provider(self, provider_id: str) -> list[ClaimView]:
        """Managed claims whose machine has this providerID."""
        return [claim for claim in self.all_claims_of_provider(provider_id) if claim.managed]

    def all_claims_of_provider(self, provider_id: str) -> list[ClaimView]:
        """Claims whose machine has this providerID, another provisioner's too."""
        found = [from_node_claim(c) for c in self.node_claims.by_index(BY_PROVIDER, provider_id)]
        found += [from_machine(m) for m in self.machines.by_index(BY_PROVIDER, provider_id)]
        return found

    def nodes_of_provider(self, provider_id: str) -> tuple[Node, ...]:
        """Nodes with this providerID: one, unless something is wrong."""
        return tuple(self.nodes.by_index(BY_PROVIDER, provider_id)) if provider_id else ()

    def nodes_of_pool(self, pool: str) -> list[Node]:
        """Nodes of an agent pool that have a providerID."""
        return [node for node in self.nodes.by_index(BY_POOL, pool) if node.spec.provider_id]

    def pods_on(self, node: str) -> list[Pod]:
        """Pods bound to the node."""
        return self.pods.by_index(BY_NODE, node)

    def volumes_on(self, node: str) -> list[str]:
        """Volumes still attached to the node."""
        return [
            a.spec.source.persistent_volume_name or a.metadata.name for a in self.attachments.by_index(BY_NODE, node)
        ]


def vital(node: Node) -> tuple[object, ...]:
    """What a decision about the node rests on: a change of anything else (heartbeats, addresses, images) wakes nobody."""
    meta, spec, status = node.metadata, node.spec, node.status
    ready = node.condition("Ready")
    return (
        meta.labels,
        meta.annotations,
        meta.finalizers,
        meta.deleting,
        spec.provider_id,
        spec.taints,
        status.capacity,
        status.allocatable,
        (ready.status, ready.message, ready.last_transition_time) if ready is not None else None,
    )


def same_health(old: Node, new: Node) -> bool:
    """Whether all that an illness is judged by is as before: a GPU is missed only on a node that has had it."""
    return (old.ready, old.status.allocatable, GPU_SEEN_ANNOTATION in old.metadata.annotations) == (
        new.ready,
        new.status.allocatable,
        GPU_SEEN_ANNOTATION in new.metadata.annotations,
    )


def pool_of(node: Node) -> str:
    """The AKS agent pool of a node, "" for a node of none."""
    marks = node.metadata.labels
    return marks.get(labels.AGENT_POOL) or marks.get(labels.AGENT_POOL_LEGACY, "")


def _pool_of_claim(claim: NodeClaim | Machine) -> tuple[str, ...]:
    """For the index, which asks several times for each change: no whole view is built for it."""
    return _some(chosen_pool(claim.metadata.name, claim.metadata.annotations, claim.status.provider_id))


def _some(value: str) -> tuple[str, ...]:
    return (value,) if value else ()
