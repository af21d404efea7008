"""A controller that dies after any of its writes leaves nothing that its successor doubles; a settled one writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from kaito_api.meta import Key
from kaito_api.resources import (
    CONTROLLERREVISIONS,
    EVENTS,
    NODECLAIMS,
    NODES,
    PODS,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
    WORKSPACES,
)
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

MANIFEST = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""
BEFORE_NODES = 8
"""Finalizer, ServiceAccount, Role, RoleBinding, Service, claim, status, and the Event."""


@dataclass
class Budget:
    """Counts the writes of a controller and lets only so many pass, as if it were killed after them."""

    left: int = 1_000_000
    used: int = 0

    def __call__(self) -> bool:
        if self.left == 0:
            return False
        self.left -= 1
        self.used += 1
        return True


async def exactly_one_of_everything(cluster: Any) -> None:
    for res in (SERVICEACCOUNTS, ROLES, ROLEBINDINGS, SERVICES, STATEFULSETS, CONTROLLERREVISIONS):
        assert len(await cluster.client.list(res, cluster.namespace)) == 1, res.plural
    assert len(await cluster.client.list(NODECLAIMS)) == 1


@pytest.mark.parametrize("writes", range(BEFORE_NODES + 1))
async def test_killed_after_any_write_before_the_nodes(cluster: Any, run_controller: Any, writes: int) -> None:
    await cluster.apply(MANIFEST)
    dying = Budget(left=writes)
    async with run_controller(fence=dying):
        await eventually(lambda: dying.left == 0)
        await asyncio.sleep(0.05)  # let it run into the wall
    successor = Budget()
    async with run_controller(fence=successor):
        await cluster.serve("phi")
        await eventually(lambda: history(cluster))
        await eventually(lambda: settled(successor))
        await exactly_one_of_everything(cluster)
    assert dying.used == writes


@pytest.mark.parametrize("writes", range(4))
async def test_killed_after_any_write_once_the_nodes_are_ready(cluster: Any, run_controller: Any, writes: int) -> None:
    await cluster.apply(MANIFEST)
    first = Budget()
    async with run_controller(fence=first):
        (claim,) = await cluster.claimed("phi")
        await eventually(lambda: settled(first, BEFORE_NODES))
    node = await cluster.provision(claim)
    dying = Budget(left=writes)
    async with run_controller(fence=dying):
        await eventually(lambda: dying.left == 0)
        await asyncio.sleep(0.05)  # let it run into the wall
    async with run_controller():
        await cluster.run_pod(await cluster.statefulset("phi"), node)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        await eventually(lambda: history(cluster))
        await exactly_one_of_everything(cluster)


async def test_at_most_eight_writes_until_the_workload_stands(cluster: Any, run_controller: Any) -> None:
    """The Event apart, which is no object of the Workspace. A status write and the revision come after the workload."""
    await cluster.apply(MANIFEST)
    budget = Budget()
    async with run_controller(fence=budget):
        (claim,) = await cluster.claimed("phi")
        await eventually(lambda: settled(budget, BEFORE_NODES))
        assert budget.used == BEFORE_NODES
        await cluster.provision(claim)
        await cluster.statefulset("phi")
        all_of_it = BEFORE_NODES + len(("StatefulSet", "status", "ControllerRevision"))
        await eventually(lambda: settled(budget, all_of_it))
        assert budget.used == all_of_it


async def test_a_converged_cluster_is_left_alone(cluster: Any, run_controller: Any, new_controller_writes: Any) -> None:
    await cluster.apply(MANIFEST)
    first = Budget()
    async with run_controller(fence=first) as wired:
        node = await cluster.serve("phi")
        await eventually(lambda: at_rest(cluster, wired))
        used = first.used
        # Changes that concern nothing: kubelet's annotations, a label of the user's on the Workspace.
        await cluster.client.patch(NODES, Key("", node), {"metadata": {"annotations": {"volumes": "attached"}}})
        await cluster.client.patch(WORKSPACES, cluster.key("phi"), {"metadata": {"labels": {"team": "a"}}})
        await eventually(lambda: at_rest(cluster, wired))
        assert first.used == used
    assert await new_controller_writes() == 0


async def settled(budget: Budget, least: int = 1) -> bool:
    """Whether that much was written, and nothing more for a while."""
    before = budget.used
    await asyncio.sleep(0.3)
    return before >= least and budget.used == before


async def at_rest(cluster: Any, wired: Any) -> bool:
    """Whether the controller has seen all that stands, has said what it had to say, and has nothing to do about it."""
    for res in (WORKSPACES, NODECLAIMS, NODES, PODS, STATEFULSETS, CONTROLLERREVISIONS):
        stored = await cluster.client.list(res, cluster.namespace if res.namespaced else None)
        assert stored, res.plural
        if versions(stored) != versions(wired.caches.of(res).list()):
            return False
    said = {event.reason for event in await cluster.client.list(EVENTS, cluster.namespace)}
    queue = wired.controller.queue
    return "NodeClaimCreated" in said and len(queue) == 0 and queue.in_work == 0


def versions(objects: list[Any]) -> set[tuple[str, str]]:
    return {(found.metadata.uid, found.metadata.resource_version) for found in objects}


async def history(cluster: Any) -> bool:
    return len(await cluster.client.list(CONTROLLERREVISIONS, cluster.namespace)) == 1
