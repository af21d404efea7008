"""A Workspace whose model asks for API keys, on a real kube-apiserver, and a Secret that is not there."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_api.resources import PODS, SECRETS, WORKSPACES
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
ANNOTATION = "kaito.sh/api-key-secret"


async def mounts(cluster: Any, *, done: bool, seconds_ago: int = 0) -> None:
    """Say of the pod's volumes what kubelet says (they are mounted before the sandbox is made)."""
    since = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")
    stated = {"PodScheduled": "True", "PodReadyToStartContainers": str(done), "Ready": str(done)}
    conditions = [{"type": type_, "status": status, "lastTransitionTime": since} for type_, status in stated.items()]
    waiting = {"name": "model-server", "ready": done, "restartCount": 0, "image": "server", "imageID": ""}
    waiting["state"] = {"running": {}} if done else {"waiting": {"reason": "PodInitializing"}}
    status = {"phase": "Running" if done else "Pending", "conditions": conditions, "containerStatuses": [waiting]}
    await cluster.client.patch(PODS, cluster.key("phi-0"), {"status": status}, subresource="status")


async def test_the_annotation_rolls_the_pods_and_a_missing_secret_is_told(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller():
        node = await cluster.serve("phi")
        before = await cluster.statefulset("phi")
        patch = {"metadata": {"annotations": {ANNOTATION: "phi-keys"}}}
        await cluster.client.patch(WORKSPACES, cluster.key("phi"), patch)

        async def rolled() -> bool:
            return bool((await cluster.statefulset("phi")).metadata.generation > before.metadata.generation)

        await eventually(rolled)
        await cluster.client.delete(PODS, cluster.key("phi-0"), grace_seconds=0)
        await cluster.run_pod(await cluster.statefulset("phi"), node, ready=False)
        await mounts(cluster, done=False, seconds_ago=3)
        await cluster.becomes("phi", "InferenceReady", "False", "WorkspaceInferenceStatusPending")
        # No event comes when the grace is over: the controller looks again by itself.
        found = await cluster.becomes("phi", "InferenceReady", "False", "ApiKeysMissing", timeout=60)
        assert "does the Secret phi-keys exist" in found.message
        assert "phi-0" in (await cluster.condition("phi", "WorkspaceSucceeded")).message
        value = base64.b64encode(b"sk-1").decode()
        secret = {"metadata": {"name": "phi-keys", "namespace": cluster.namespace}, "data": {"key-1": value}}
        await cluster.client.create(SECRETS, secret)
        await mounts(cluster, done=True)
        await cluster.statefulset_status("phi", ready=1)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")


async def test_a_name_that_no_secret_can_have_starts_nothing_open(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST.replace("{name: phi}", '{name: phi, annotations: {kaito.sh/api-key-secret: ""}}'))
    async with run_controller():
        found = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "SpecInvalid")
        assert found.message.startswith(f"metadata.annotations[{ANNOTATION}]: must be the name of a Secret")
        assert await cluster.claims("phi") == []
