"""Bad input, line by line, on a real apiserver: who refuses it, with which words, and that nothing is bought or lost.

The key of each table is the input as one would describe it. `REFUSED`: the apiserver does not take it. `TOLD`: it is stored, and
a condition says what is wrong. `FROM_THE_POD`: only the machine can find out; the pod says so and the condition repeats it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from kaito_api import report
from kaito_api.resources import CONFIGMAPS, NODECLAIMS, SERVICES, STATEFULSETS
from kubecore.errors import Invalid
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.integration

BASE: dict[str, Any] = yaml.safe_load("""
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC6s_v3
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
""")
TUNING = yaml.safe_load("""
preset: {name: phi-3-mini-4k-instruct}
method: qlora
input: {urls: ["https://example.com/data.parquet"]}
output: {image: "registry.local/a:1", imagePushSecret: push}
""")
TWO_VALUES = {"key": "a", "operator": "In", "values": ["b", "c"]}


def resource(**changes: Any) -> dict[str, Any]:
    return {"resource": {**BASE["resource"], **changes}}


def inference(**changes: Any) -> dict[str, Any]:
    return {"inference": {**BASE["inference"], **changes}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "selector that does not convert": (resource(labelSelector={"matchExpressions": [TWO_VALUES]}), "labelSelector"),
    "preset and template at once": (inference(template={"spec": {}}), "exactly one of inference.preset"),
}

TOLD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown preset": ({"inference": {"preset": {"name": "phi-99"}}}, "PresetUnknown", "phi-99"),
    "unknown instance type": (resource(instanceType="Standard_X1"), "InstanceTypeUnknown", "Standard_X1"),
    "both inference and tuning": ({"tuning": TUNING}, "SpecInvalid", "inference and tuning"),
    "neither inference nor tuning": ({"inference": None}, "SpecInvalid", "neither inference nor tuning"),
    "instance type too small, with the numbers": (
        inference(preset={"name": "phi-3-mini-128k-instruct"}, config="long"),
        "InstanceTypeTooSmall",
        "GiB",
    ),
    "config map missing": (inference(config="absent"), "ConfigMapNotFound", "'absent' does not exist"),
    "config map unreadable": (inference(config="broken"), "ConfigInvalid", "not valid YAML"),
    "config map without the key": (inference(config="keyless"), "ConfigInvalid", "lacks the key inference_config.yaml"),
    "config map with unknown keys": (inference(config="unknown"), "ConfigInvalid", "did you mean vllm?"),
    "name of 64 characters": ({"metadata": {"name": "n" * 64}}, "SpecInvalid", "this has 64"),
    "name with dots": ({"metadata": {"name": "phi.four"}}, "SpecInvalid", "no dots"),
    "name with a leading digit": ({"metadata": {"name": "4-phi"}}, "SpecInvalid", "a letter first"),
}
CONFIGS = {
    "long": {"inference_config.yaml": "vllm: {max-model-len: 131072}\n"},
    "broken": {"inference_config.yaml": "vllm: ["},
    "keyless": {"config.yaml": "vllm: {}\n"},
    "unknown": {"inference_config.yaml": "vlm: {}\n"},
}

FROM_THE_POD: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "weights image missing": ("weights", {"exitCode": 66}, "WeightsMissing", "no such tag"),
    "weights of another architecture": ("weights", {"exitCode": 67}, "WeightsInvalid", "GPT2LMHeadModel"),
    "weights truncated": ("weights", {"exitCode": 67}, "WeightsInvalid", "4096 of 8192 bytes"),
    "weights behind a secret": ("weights", {"exitCode": 72}, "AccessDenied", "401"),
    "engine out of GPU memory": ("model-server", {"exitCode": 71}, "OutOfMemory", "KV cache"),
    "engine killed by the kernel": (
        "model-server",
        {"exitCode": 137, "reason": "OOMKilled"},
        "ContainerOOMKilled",
        "was killed because its node ran out of memory",
    ),
    "engine that fails without a word": ("model-server", {"exitCode": 1}, "ContainerCrashLoopBackOff", "exit code 1"),
}


async def nothing_was_made(cluster: Any) -> None:
    assert await cluster.client.list(NODECLAIMS) == []
    assert await cluster.client.list(SERVICES, cluster.namespace) == []
    assert await cluster.client.list(STATEFULSETS, cluster.namespace) == []


async def says(cluster: Any, reason: str, *words: str) -> bool:
    found = await cluster.condition("phi", "InferenceReady")
    assert (found.status, found.reason) == ("False", reason), found
    assert all(word in found.message for word in words), found
    return True


@pytest.mark.parametrize("line", REFUSED)
async def test_refused_by_the_apiserver(cluster: Any, line: str) -> None:
    changes, words = REFUSED[line]
    with pytest.raises(Invalid, match=words):
        await cluster.apply({**BASE, **changes})


async def test_told_in_a_condition(cluster: Any, run_controller: Any) -> None:
    """One controller and all lines at once: each Workspace hears of its own mistake only."""
    for name, data in CONFIGS.items():
        metadata = {"name": name, "namespace": cluster.namespace}
        await cluster.client.create(CONFIGMAPS, {"metadata": metadata, "data": data})
    names: dict[str, str] = {}
    for number, (line, (changes, _, _)) in enumerate(TOLD.items()):
        manifest = {**BASE, **changes}
        if "metadata" not in changes:
            manifest["metadata"] = {"name": f"w{number}"}
        names[line] = manifest["metadata"]["name"]
        await cluster.apply({key: value for key, value in manifest.items() if value is not None})
    async with run_controller():
        for line, (_, reason, words) in TOLD.items():
            found = await cluster.becomes(names[line], "WorkspaceSucceeded", "False", reason)
            assert words in found.message, line
            assert (await cluster.workspace(names[line])).status.state == "Pending", line
        await nothing_was_made(cluster)
        for name in names.values():  # and each can be deleted
            await cluster.delete(name)


async def test_told_by_the_pod(cluster: Any, run_controller: Any) -> None:
    """One Workspace through all of them: every failure takes the place of the one before, and recovery ends the last."""
    await cluster.apply(BASE)
    async with run_controller():
        await cluster.serve("phi")
        for container, ended, reason, words in FROM_THE_POD.values():
            said = report.Report(state="Failed", message=f"said: {words}", at=datetime.now(UTC))
            message = report.encode(said).decode() if ended["exitCode"] not in (1, 137) else ""
            await cluster.pod_fails("phi-0", container, {"reason": "Error", "message": message, **ended})
            await eventually(lambda reason=reason, words=words: says(cluster, reason, "phi-0", words))
            await cluster.becomes("phi", "WorkspaceSucceeded", "False")
        await cluster.pod_fails("phi-0", "weights", {"exitCode": 0, "reason": "Completed"})
        await cluster.pod_status("phi-0", ready=True)
        await cluster.becomes("phi", "WorkspaceSucceeded", "True")
        assert len(await cluster.client.list(NODECLAIMS)) == 1, "none was lost, none was bought twice"
