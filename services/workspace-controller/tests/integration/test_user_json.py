"""Pod templates and volumes are the user's own JSON: what the apiserver would refuse is told before a machine is bought."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kaito_api.resources import JOBS, STATEFULSETS
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration
CONTAINER = {"name": "server", "image": "server"}
MANIFEST: dict[str, Any] = yaml.safe_load("""
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
""")


def template(spec: dict[str, Any]) -> dict[str, Any]:
    return {**MANIFEST, "inference": {"template": {"spec": {"containers": [CONTAINER], **spec}}}}


def adapter(volume: dict[str, Any]) -> dict[str, Any]:
    adapters = [{"source": {"name": "a", "volumeSource": volume}}]
    return {**MANIFEST, "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}, "adapters": adapters}}


def tuning(volume: dict[str, Any]) -> dict[str, Any]:
    source = {"volumeSource": {"persistentVolumeClaim": {"claimName": "data"}}}
    content = {"preset": {"name": "phi-3-mini-4k-instruct"}, "method": "lora", "input": source}
    return {**MANIFEST, "tuning": {**content, "output": {"volumeSource": volume}}}


REFUSED = {
    "a misspelt field": (template({"nodeSelctor": {"a": "b"}}), ".spec.template.spec.nodeSelctor: field not declared"),
    "a number for a text": (template({"hostname": 5}), "expected string"),
    "a value out of range": (template({"restartPolicy": "Never"}), "restartPolicy: Unsupported value"),
    "an adapter's misspelt volume": (adapter({"persistentVolumClaim": {"claimName": "a"}}), "persistentVolumClaim"),
    "two kinds of volume": (adapter({"emptyDir": {}, "nfs": {"server": "a", "path": "/"}}), "more than 1 volume type"),
    "the output's misspelt volume": (tuning({"persistentVolumClaim": {"claimName": "a"}}), "persistentVolumClaim"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_workload_that_the_apiserver_refuses_buys_nothing(cluster: Any, run_controller: Any, case: str) -> None:
    body, words = REFUSED[case]
    await cluster.apply(body)
    async with run_controller():
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "WriteRefused")
        assert words in condition.message
        assert await cluster.claims("phi") == []
        for res in (STATEFULSETS, JOBS):
            assert await cluster.find(res, "phi") is None


async def test_a_template_goes_on_once_it_is_repaired(cluster: Any, run_controller: Any) -> None:
    await cluster.apply({**MANIFEST, "inference": {"template": {"metadata": None, "spec": {"containers": ["server"]}}}})
    async with run_controller():
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "SpecInvalid")
        assert "inference.template.spec.containers" in condition.message
        await cluster.apply(template({"nodeSelctor": {"a": "b"}}))
        await cluster.becomes("phi", "WorkspaceSucceeded", "False", "WriteRefused")
        await cluster.apply(
            {**MANIFEST, "inference": {"template": {"metadata": None, "spec": {"containers": [CONTAINER]}}}}
        )
        (claim,) = await cluster.claimed("phi")
        await cluster.provision(claim)
        await cluster.statefulset("phi")


async def test_a_refused_edit_is_told_once_while_the_model_serves(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(template({}))
    attempts = 0

    def count() -> bool:
        nonlocal attempts
        attempts += 1
        return True

    async with run_controller(fence=count):
        await cluster.serve("phi")
        before = await cluster.statefulset("phi")
        await cluster.apply(template({"nodeSelctor": {"a": "b"}}))
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "WriteRefused")
        assert "nodeSelctor" in condition.message
        told, tried = (await cluster.workspace("phi")).metadata.resource_version, attempts
        await eventually(lambda: attempts >= tried + 5, timeout=60)
        assert (await cluster.workspace("phi")).metadata.resource_version == told
        assert (await cluster.statefulset("phi")).metadata.generation == before.metadata.generation
        assert (await cluster.workspace("phi")).status.state == "Ready"
