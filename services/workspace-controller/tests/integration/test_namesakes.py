"""Objects of others that look like a Workspace's own: by label, by name, by an earlier Workspace of the same name."""

from __future__ import annotations

from typing import Any

import pytest

from kaito_api import labels
from kaito_api.resources import CONTROLLERREVISIONS, PODS
from kubecore.testing.asserts import eventually
from workspace_controller.revision import digest_of

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


async def test_pods_of_others_under_our_label_change_nothing(cluster: Any, run_controller: Any) -> None:
    """A client that is labelled with the model that it asks is not the model, and no reason to keep a machine."""
    await cluster.apply(MANIFEST)
    async with run_controller():
        (claim,) = await cluster.claimed("phi")
        node = await cluster.provision(claim)
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "client-5c9f", "uid": "a", "controller": True}
        metadata = {"name": "client-5c9f-x", "namespace": cluster.namespace, "labels": {labels.WORKSPACE: "phi"}}
        spec = {"nodeName": node, "containers": [{"name": "client", "image": "client"}]}
        await cluster.client.create(PODS, {"metadata": {**metadata, "ownerReferences": [owner]}, "spec": spec})
        await cluster.run_pod(await cluster.statefulset("phi"), node)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        await cluster.delete("phi")
        assert await cluster.claims("phi") == []


async def test_a_revision_of_an_earlier_namesake_is_in_nobody_s_way(cluster: Any, run_controller: Any) -> None:
    """The same manifest deleted and applied again: the garbage collector may not have come by, or was told to orphan."""
    workspace = await cluster.apply(MANIFEST)
    metadata = {"name": f"phi-{digest_of(workspace)[:10]}", "namespace": cluster.namespace}
    await cluster.client.create(CONTROLLERREVISIONS, {"metadata": metadata, "revision": 7, "data": {}})
    async with run_controller() as wired:
        await cluster.serve("phi")

        async def written() -> list[int]:
            found = await cluster.client.list(CONTROLLERREVISIONS, cluster.namespace, labels.REVISION_OWNER)
            return [revision.revision for revision in found]

        assert await eventually(written) == [1]
        queue = wired.controller.queue
        await eventually(lambda: not (len(queue) or queue.in_work or queue.delayed))
