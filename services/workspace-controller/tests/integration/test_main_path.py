"""From an unchanged manifest to a serving model, and what stands afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from kaito_api.resources import (
    CONTROLLERREVISIONS,
    NODECLAIMS,
    ROLEBINDINGS,
    ROLES,
    SERVICEACCOUNTS,
    SERVICES,
    STATEFULSETS,
)
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration
NAME = "workspace-phi-3-mini"


async def test_unchanged_example_becomes_a_serving_workload(cluster: Any, run_controller: Any) -> None:
    await cluster.example("inference-phi-3.yaml")
    async with run_controller():
        (claim,) = await cluster.claimed(NAME)
        await cluster.becomes(NAME, "ResourceReady", "False")
        assert await cluster.find(STATEFULSETS, NAME) is None
        node = await cluster.provision(claim)
        statefulset = await cluster.statefulset(NAME)
        await cluster.becomes(NAME, "ResourceReady", "True", "workspaceResourceStatusSuccess")
        await cluster.becomes(NAME, "InferenceReady", "False", "WorkspaceInferenceStatusPending")
        await cluster.run_pod(statefulset, node)
        await cluster.becomes(NAME, "InferenceReady", "True", "WorkspaceInferenceStatusSuccess")
        await cluster.becomes(NAME, "WorkspaceSucceeded", "True", "workspaceSucceeded")
        found = await cluster.workspace(NAME)
        assert found.status.state == "Ready"
        assert found.status.worker_nodes == [node]
        assert found.status.target_node_count == 1
        assert {c.observed_generation for c in found.status.conditions} == {found.metadata.generation}
        service = await cluster.find(SERVICES, NAME)
        assert [port.port for port in service.spec.ports] == [80, 29500]
        for res in (SERVICEACCOUNTS, ROLES, ROLEBINDINGS):
            assert len(await cluster.client.list(res, cluster.namespace)) == 1

        async def history() -> list[int]:
            return [r.revision for r in await cluster.client.list(CONTROLLERREVISIONS, cluster.namespace)]

        assert await eventually(history) == [1]
        assert len(await cluster.client.list(NODECLAIMS)) == 1
