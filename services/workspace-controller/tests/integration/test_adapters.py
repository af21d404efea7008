"""Adapters as the controller sees them: looked at in a real registry before a node is bought, and reported by ten pods."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kaito_oci
from kaito_api import labels
from kaito_api.report import AdapterReport, EngineReport, Report, encode
from kaito_api.resources import PODS, STATEFULSETS
from kaito_oci.testing.docker_registry import DockerRegistry
from kubecore.testing.asserts import eventually
from workspace_controller.settings import Settings

pytestmark = pytest.mark.integration

MANIFEST = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: phi-3-mini-4k-instruct}
"""
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


async def push(registry: DockerRegistry, folder: Path, tag: str, *, hidden: int = 3072, rank: int = 16) -> str:
    """Push an adapter on one layer's o_proj as an image; returns its reference."""
    header: dict[str, Any] = {}
    end = 0
    for side, shape in (("A", [rank, hidden]), ("B", [hidden, rank])):
        start, end = end, end + rank * hidden * 2
        name = f"base_model.model.model.layers.0.self_attn.o_proj.lora_{side}.weight"
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    made = folder / tag
    made.mkdir()
    (made / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["o_proj"], "bias": "none"}
    (made / "adapter_config.json").write_text(json.dumps(config))
    members = [kaito_oci.Member(f"data/{file.name}", file) for file in sorted(made.iterdir())]
    layer = kaito_oci.TarBlob(members, "application/vnd.oci.image.layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [layer.descriptor.digest]}
    about = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    blob = kaito_oci.BytesBlob(about, "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": msgspec.to_builtins(blob.descriptor),
        "layers": [msgspec.to_builtins(layer.descriptor)],
    }
    reference = f"{registry.host}/adapters/test:{tag}"
    how = kaito_oci.RegistrySettings(
        plain_http_hosts=[] if registry.ca else [registry.host], ca_bundle=str(registry.ca or "")
    )
    await kaito_oci.push(reference, [blob, layer], json.dumps(manifest).encode(), settings=how)
    return reference


def settings(registry: DockerRegistry) -> Settings:
    return Settings(plain_http_hosts=frozenset({registry.host}))


def with_adapter(image: str, secret: str = "") -> str:
    secrets = f", imagePullSecrets: [{secret}]" if secret else ""
    return f"{MANIFEST}  adapters: [{{source: {{name: poet, image: '{image}'{secrets}}}}}]\n"


async def test_a_wrong_adapter_buys_no_node_and_a_right_one_does(
    cluster: Any, run_controller: Any, registry: DockerRegistry, tmp_path: Path
) -> None:
    wrong = await push(registry, tmp_path, "wrong", hidden=2048)
    right = await push(registry, tmp_path, "right")
    async with run_controller(settings=settings(registry)):
        await cluster.apply(with_adapter(wrong))
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "AdapterFailed")
        assert "WrongBaseModel" in condition.message
        assert "No node is requested" in condition.message
        (status,) = (await cluster.workspace("phi")).status.adapters
        assert (status.state, status.reason) == ("Failed", "WrongBaseModel")
        assert await cluster.claims("phi") == []
        await cluster.apply(with_adapter(right))
        await cluster.claimed("phi")


async def test_the_look_reaches_a_registry_of_a_private_authority(
    cluster: Any, run_controller: Any, tls_registry: DockerRegistry, tmp_path: Path
) -> None:
    wrong = await push(tls_registry, tmp_path, "wrong", hidden=2048)
    async with run_controller(settings=Settings(registry_ca=str(tls_registry.ca))):
        await cluster.apply(with_adapter(wrong))
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "AdapterFailed")
        assert "WrongBaseModel" in condition.message
    async with run_controller():  # whose certificate is not trusted says nothing of the image: the pod finds out
        await cluster.claimed("phi")


async def test_an_image_that_is_not_there_buys_no_node_until_it_is_pushed(
    cluster: Any, run_controller: Any, registry: DockerRegistry, tmp_path: Path
) -> None:
    async with run_controller(settings=settings(registry)):
        made = await cluster.apply(with_adapter(f"{registry.host}/adapters/test:late"))
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "AdapterFailed")
        assert "NotFound" in condition.message
        assert "push the image there, or correct source.image" in condition.message
        (status,) = (await cluster.workspace("phi")).status.adapters
        assert (status.state, status.reason) == ("Failed", "NotFound")
        assert await cluster.claims("phi") == []
        await push(registry, tmp_path, "late")
        await cluster.claimed_within("phi", 90)
        await cluster.becomes("phi", "AdaptersReady", "False", "AdaptersPending")
        found = await cluster.workspace("phi")
        assert found.metadata.generation == made.metadata.generation, "nobody edited it"


async def test_an_image_behind_a_login_buys_no_node_until_a_secret_is_named(
    cluster: Any, run_controller: Any, locked_registry: DockerRegistry
) -> None:
    async with run_controller(settings=settings(locked_registry)):
        image = f"{locked_registry.host}/adapters/test:1"
        await cluster.apply(with_adapter(image))
        condition = await cluster.becomes("phi", "WorkspaceSucceeded", "False", "AdapterFailed")
        assert "Unauthorized" in condition.message
        assert "source.imagePullSecrets" in condition.message
        assert await cluster.claims("phi") == []
        await cluster.apply(with_adapter(image, "pull"))
        await cluster.claimed("phi")


async def test_a_high_rank_is_planned_when_it_is_known_in_time(
    cluster: Any, run_controller: Any, registry: DockerRegistry, tmp_path: Path
) -> None:
    image = await push(registry, tmp_path, "high", rank=100)
    async with run_controller(settings=settings(registry)):
        await cluster.apply(with_adapter(image))
        await cluster.serve("phi")
        assert (await cluster.workspace("phi")).status.plan.engine.max_lora_rank == 128


@pytest.mark.parametrize(("image", "secret"), [("127.0.0.1:1/a:1", ""), ("registry.invalid/a:1", "pull")])
async def test_what_cannot_be_read_from_here_holds_nothing_up(
    cluster: Any, run_controller: Any, registry: DockerRegistry, image: str, secret: str
) -> None:
    await cluster.apply(with_adapter(image, secret))
    async with run_controller(settings=settings(registry)):
        await cluster.claimed("phi")


async def test_a_volume_waits_for_leave_to_restart(cluster: Any, run_controller: Any) -> None:
    volume = f"{MANIFEST}  adapters: [{{source: {{name: poet, volumeSource: {{emptyDir: {{}}}}}}}}]\n"
    await cluster.apply(MANIFEST)
    async with run_controller():
        await cluster.serve("phi")
        before = (await cluster.client.get(STATEFULSETS, cluster.key("phi"))).metadata.generation
        await cluster.apply(volume)
        condition = await cluster.becomes("phi", "AdaptersReady", "False", "RestartRequired")
        assert labels.ADAPTER_RESTART in condition.message
        assert (await cluster.client.get(STATEFULSETS, cluster.key("phi"))).metadata.generation == before
        leave = f"metadata: {{name: phi, annotations: {{{labels.ADAPTER_RESTART}: {labels.ALLOWED}}}}}"
        await cluster.apply(volume.replace("metadata: {name: phi}", leave))

        async def rolled() -> bool:
            found = await cluster.client.get(STATEFULSETS, cluster.key("phi"))
            return found.metadata.generation > before

        await eventually(rolled)


async def test_ten_pods_report_and_the_status_counts_them(cluster: Any, run_controller: Any) -> None:
    await cluster.apply(with_adapter("registry.invalid/poet:1", "pull"))
    async with run_controller():
        node = await cluster.serve("phi")
        workload = await cluster.statefulset("phi")
        for ordinal in range(1, 10):
            await cluster.run_pod(workload, node, ordinal=ordinal)
        entry = AdapterReport(
            name="poet", image="registry.invalid/poet:1", digest="sha256:1", strength="1", state="Ready"
        )
        for ordinal in range(10):
            await report(cluster, ordinal, entry)
        await counted(cluster, "Ready", 10)
        await cluster.becomes("phi", "AdaptersReady", "True")
        failed = msgspec.structs.replace(entry, state="Failed", reason="DiskFull", message="no space")
        await report(cluster, 3, failed)
        found = await counted(cluster, "Failed", 9)
        assert (found.reason, found.message) == ("DiskFull", "phi-3: no space")
        condition = await cluster.becomes("phi", "AdaptersReady", "False", "AdapterFailed")
        assert "phi-3: no space" in condition.message
        await report(cluster, 3, entry)
        await counted(cluster, "Ready", 10)


async def report(cluster: Any, ordinal: int, entry: AdapterReport) -> None:
    """Write a pod's report as its server does."""
    said = Report(state="Ready", at=NOW, engine=EngineReport(dtype="float16"), adapters=[entry])
    note = {labels.report_annotation("model-server"): encode(said).decode()}
    await cluster.client.patch(PODS, cluster.key(f"phi-{ordinal}"), {"metadata": {"annotations": note}})


async def counted(cluster: Any, state: str, ready: int) -> Any:
    async def check() -> Any:
        (found,) = (await cluster.workspace("phi")).status.adapters
        assert (found.state, found.pods, found.ready_pods) == (state, 10, ready), found
        return found

    return await eventually(check, timeout=30)
