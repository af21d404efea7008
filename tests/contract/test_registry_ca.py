"""What the controller plans for registries of a private authority is what the containers obey: mounted, named, read.

The commands and variables are the plan's own; what kubelet does, putting a ConfigMap's keys into a folder, is done here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kaito_oci
from kaito_api.workspace import Workspace
from kaito_oci.testing.docker_registry import DockerRegistry
from workspace_controller.catalog_files import load_catalog
from workspace_controller.inference import plan_inference
from workspace_controller.inference.registry_ca import certificates
from workspace_controller.manifest import Manifest
from workspace_controller.settings import Settings
from workspace_controller.tuning import plan_tuning
from workspace_controller.validation import validate

pytestmark = pytest.mark.slow  # processes that are waited for

SETTINGS = Settings(engine_override="cpu")
RESOURCE = {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "w"}}}
PRESET = {"name": "phi-3-mini-4k-instruct"}
METADATA = {"name": "w", "namespace": "n", "uid": "0b1c"}


def planned(given: dict[str, Any], registry_ca: str) -> tuple[Manifest, ...]:
    workspace = msgspec.convert({"metadata": METADATA, "resource": RESOURCE, **given}, Workspace)
    sizing = validate(workspace, load_catalog(None), SETTINGS).sizing
    assert sizing is not None
    if workspace.tuning is not None:
        return plan_tuning(workspace, None, sizing, SETTINGS, run="r", registry_ca=registry_ca)
    return plan_inference(workspace, None, sizing, SETTINGS, registry_ca=registry_ca)


async def start(manifests: tuple[Manifest, ...], name: str, folder: Path, program: str, *drop: str) -> tuple[int, str]:
    """Run the container `name` of the planned pod as kubelet would, its paths below `folder`; exit code and last words."""
    pod = next(m.body["spec"]["template"]["spec"] for m in manifests if m.resource.kind in {"StatefulSet", "Job"})
    container = next(each for each in (*pod["initContainers"], *pod["containers"]) if each["name"] == name)
    maps = {m.name: m.body["data"] for m in manifests if m.resource.kind == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        there = folder / mount["mountPath"].lstrip("/")
        there.mkdir(parents=True, exist_ok=True)
        for key, text in maps.get(volumes[mount["name"]].get("configMap", {}).get("name"), {}).items():
            (there / key).write_text(text)
    mounts = sorted((mount["mountPath"] for mount in container["volumeMounts"]), key=len, reverse=True)

    def local(word: str) -> str:
        return f"{folder}{word}" if any(word.startswith(f"{path}/") or word == path for path in mounts) else word

    words = [local(word) for word in container["command"][1:]]
    for flag in drop:
        at = words.index(flag)
        del words[at : at + 2]
    variables = {entry["name"]: local(entry["value"]) for entry in container["env"] if "value" in entry}
    last = folder / "last-word"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", program, *words),
        env=os.environ | variables | {"MODEL_SERVER_TERMINATION_LOG": str(last), "HOME": str(folder)},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode or 0, last.read_text() if last.exists() else errors.decode()


async def push_weights(registry: DockerRegistry) -> str:
    """Push an image with just enough to be taken for the preset's weights."""
    header = json.dumps({"t": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()
    files = {
        "config.json": b'{"architectures": ["Phi3ForCausalLM"]}',
        "tokenizer.json": b"{}",
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
    }
    folder = next(preset.image.path for preset in load_catalog(None).presets if preset.name == PRESET["name"])
    layer = kaito_oci.TarBlob(
        [kaito_oci.Member(f"{folder.strip('/')}/{name}".lstrip("/"), content) for name, content in files.items()],
        "application/vnd.oci.image.layer.v1.tar",
    )
    about = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.descriptor.digest]},
    }
    config = kaito_oci.BytesBlob(json.dumps(about).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": msgspec.to_builtins(config.descriptor),
        "layers": [msgspec.to_builtins(layer.descriptor)],
    }
    reference = f"{registry.host}/kaito/phi:1"
    how = kaito_oci.RegistrySettings(ca_bundle=str(registry.ca))
    await kaito_oci.push(reference, [config, layer], json.dumps(manifest).encode(), settings=how)
    return reference


async def test_the_planned_pod_pulls_its_weights(tls_registry: DockerRegistry, tmp_path: Path) -> None:
    assert tls_registry.ca is not None
    image = await push_weights(tls_registry)
    preset = {**PRESET, "accessMode": "private", "presetOptions": {"image": image}}
    given = {"inference": {"preset": preset}}
    code, said = await start(planned(given, ""), "weights", tmp_path / "before", "model_server", "--workspace")
    assert (code, "signed by an authority that is not public" in said) == (73, True), said
    trusting = planned(given, certificates(tls_registry.ca.read_text()))
    code, said = await start(trusting, "weights", tmp_path / "after", "model_server", "--workspace")
    assert code == 0, said
    assert (tmp_path / "after/workspace/weights/model.safetensors").exists()


async def test_the_planned_job_may_push_its_result(tls_registry: DockerRegistry, tmp_path: Path) -> None:
    assert tls_registry.ca is not None
    output = {"image": f"{tls_registry.host}/team/adapter:1", "imagePushSecret": "push"}
    tuning = {"preset": PRESET, "method": "lora", "input": {"urls": ["https://data.example/r"]}, "output": output}
    drop = ("--push-secret", "--push-secret-folder", "--hold", "--container")
    before, after = (
        planned({"tuning": tuning}, ""),
        planned({"tuning": tuning}, certificates(tls_registry.ca.read_text())),
    )
    code, said = await start(before, "adapter-packager-check", tmp_path / "before", "adapter_packager", *drop)
    assert (code, "signed by an authority that is not public" in said) == (76, True), said
    code, said = await start(after, "adapter-packager-check", tmp_path / "after", "adapter_packager", *drop)
    assert code == 0, said
