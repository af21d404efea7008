"""Which changes wake a claim: none may be lost, whatever order a write's answer and the watch's events come in."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from provisioner_builders import node

from gpu_provisioner.claims.view import ClaimKind
from gpu_provisioner.pools.plan import ClaimOutcome, Outcome
from gpu_provisioner.settings import AzureSettings, Settings
from gpu_provisioner.wiring import Provisioner
from kaito_api.core.node import Node
from kaito_api.nodeclaim import NodeClaim
from kubecore.client import Client
from kubecore.config import ClusterConfig
from kubecore.transport import Transport

MARKS = {"karpenter.sh/registered": "true"}


def claim(provider_id: str) -> NodeClaim:
    metadata = {"name": "ws1", "uid": "u", "resourceVersion": "1", "labels": {"kaito.sh/workspace": "phi"}}
    metadata |= {"annotations": {"kaito.sh/agent-pool": "p"}}
    return msgspec.convert({"metadata": metadata, "spec": {}, "status": {"providerID": provider_id}}, NodeClaim)


def at(version: str, found: Node) -> Node:
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, resource_version=version))


async def watching(first: Node, *, bound: bool = True) -> Provisioner:
    """A provisioner that was never started, whose caches hold a claim and its node; nothing is queued."""
    service = Provisioner(
        client=Client(Transport(ClusterConfig(), user_agent="test")),
        cloud=None,  # type: ignore[arg-type] - no call is made
        kinds={ClaimKind.NODE_CLAIM},
        settings=Settings(azure=AzureSettings(subscription_id="s", resource_group="g", cluster_name="c")),
        registry=CollectorRegistry(),
    )
    assert service.observer.node_claims is not None
    service.observer.node_claims.replaced([claim(first.spec.provider_id if bound else "")], "1")
    service.observer.nodes.replaced([first], "1")
    for queue in (service.claims.queue, service.repair.queue):
        while len(queue):
            queue.done(await queue.get())  # type: ignore[arg-type] - None comes after shutdown only
    return service


async def test_readiness_that_our_own_write_has_overtaken_wakes_the_claim() -> None:
    """kubelet writes version 2, our labels are version 3, and the answer to ours comes before the watch shows kubelet's."""
    service = await watching(at("1", node(ready=False)))
    service.observer.nodes.record(at("3", node(ready=True, **MARKS)))
    service.observer.nodes.changed("MODIFIED", at("2", node(ready=True)))
    assert len(service.claims.queue) == 1


@pytest.mark.parametrize("decided", [True, False])
async def test_a_node_that_becomes_ready_while_its_binding_is_written(decided: bool) -> None:
    """The claim in the cache does not name the node yet, and the binding's own event will be an echo."""
    first = at("1", node(ready=False))
    service = await watching(first, bound=False)
    provider_id = first.spec.provider_id if decided else ""
    service.ledger.outcomes["u"] = ClaimOutcome(uid="u", outcome=Outcome.BOUND, provider_id=provider_id)
    service.observer.nodes.changed("MODIFIED", at("2", node(ready=True)))
    assert len(service.claims.queue) == decided


async def test_a_lost_gpu_that_our_own_write_has_overtaken_is_looked_at() -> None:
    service = await watching(at("1", node(**MARKS)))
    service.observer.nodes.record(at("3", node(gpus=0, **MARKS)))
    service.observer.nodes.changed("MODIFIED", at("2", node(gpus=0, **MARKS)))
    assert service.repair.queue.delayed == 1


async def test_our_own_write_and_a_heartbeat_wake_nobody() -> None:
    service = await watching(at("1", node()))
    service.observer.nodes.record(at("2", node(**MARKS)))
    service.observer.nodes.changed("MODIFIED", at("2", node(**MARKS)))
    service.observer.nodes.changed("MODIFIED", at("3", node(**MARKS)))
    assert len(service.claims.queue) == 0
