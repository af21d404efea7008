"""Another release of the operator plans other pods: those that run go on until their user lets them be restarted."""

from __future__ import annotations

from typing import Any

import pytest

from kaito_api import labels
from kaito_api.meta import Resource
from kaito_api.resources import WORKSPACES
from kubecore.testing.asserts import eventually
from workspace_controller.failures import EXIT_REASONS
from workspace_controller.settings import Settings

pytestmark = pytest.mark.integration

MANIFEST: dict[str, Any] = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "phi"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "phi"}}},
    "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
}
WHOLE: Resource[Any] = Resource("apps", "v1", "statefulsets", "StatefulSet", True, dict)
BEFORE = Settings(engine_images={"gpu-sm70": "server:1"})
AFTER = Settings(engine_images={"gpu-sm70": "server:2"})


async def workload(cluster: Any) -> tuple[str, dict[str, Any]]:
    """Return the image of the pod template and the update strategy."""
    spec = (await cluster.client.get(WHOLE, cluster.key("phi")))["spec"]
    return spec["template"]["spec"]["containers"][0]["image"], spec["updateStrategy"]


async def becomes(cluster: Any, image: str, strategy: str) -> None:
    async def check() -> bool:
        found, how = await workload(cluster)
        assert (found, how["type"]) == (image, strategy)
        return True

    await eventually(check)


async def says(cluster: Any, *, waits: bool) -> None:
    async def check() -> bool:
        found = await cluster.condition("phi", "InferenceReady")
        assert found.status == "True", found
        assert (labels.UPGRADE_RESTART in found.message) is waits, found.message
        return True

    await eventually(check)


async def test_an_upgrade_restarts_nothing_until_it_may(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller(settings=BEFORE):
        await cluster.serve("phi")
        await becomes(cluster, "server:1", "RollingUpdate")

    async with run_controller(settings=AFTER):
        await becomes(cluster, "server:2", "OnDelete")
        assert await workload(cluster) == ("server:2", {"type": "OnDelete"})
        await cluster.statefulset_status("phi", ready=1, updated=0, update_revision="two")
        await says(cluster, waits=True)

        # An adapter comes: the engine takes it in, and the pods still wait.
        adapter = {"source": {"name": "green", "image": "registry.invalid/green:1"}, "strength": "1"}
        await cluster.apply({**MANIFEST, "inference": {**MANIFEST["inference"], "adapters": [adapter]}})
        await cluster.becomes("phi", "AdaptersReady", "False")
        await becomes(cluster, "server:2", "OnDelete")

        note = {"metadata": {"annotations": {labels.UPGRADE_RESTART: labels.ALLOWED}}}
        await cluster.client.patch(WORKSPACES, cluster.key("phi"), note)
        await becomes(cluster, "server:2", "RollingUpdate")
        await cluster.statefulset_status("phi", ready=1, update_revision="two")
        await says(cluster, waits=False)


@pytest.mark.parametrize(
    ("container", "code", "strategy"),
    [("weights", 73, "RollingUpdate"), ("model-server", 70, "OnDelete")],
    ids=["the engine never ran", "the engine crashed"],
)
async def test_pods_that_fail_before_the_engine_ran_are_made_anew(
    cluster: Any, run_controller: Any, container: str, code: int, strategy: str
) -> None:
    """The operator mends a setting. Where weights cannot be pulled nothing is lost; an engine that ran comes back by itself."""
    await cluster.apply(MANIFEST)
    async with run_controller(settings=BEFORE):
        (claim,) = await cluster.claimed("phi")
        node = await cluster.provision(claim)
        await cluster.run_pod(await cluster.statefulset("phi"), node, ready=False)
        await cluster.pod_fails("phi-0", container, {"exitCode": code, "reason": "Error"})
        await cluster.becomes("phi", "InferenceReady", "False", EXIT_REASONS[code])
    async with run_controller(settings=AFTER):
        await becomes(cluster, "server:2", strategy)


async def test_an_edit_of_the_user_rolls_the_pods(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(MANIFEST)
    async with run_controller(settings=BEFORE):
        await cluster.serve("phi")
    async with run_controller(settings=AFTER):
        await becomes(cluster, "server:2", "OnDelete")
        note = {"metadata": {"annotations": {"kaito.sh/performance-mode": "throughput"}}}
        await cluster.client.patch(WORKSPACES, cluster.key("phi"), note)
        await becomes(cluster, "server:2", "RollingUpdate")
