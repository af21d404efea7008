"""adapters.acquire: what a mounted adapter is now, and a registry of a private authority. The rest: test_adapter_manager.py."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from kaito_oci import RegistrySettings
from kaito_oci.testing.docker_registry import DockerRegistry
from model_server.adapters.acquire import AcquireError, Acquirer
from model_server.adapters.store import AdapterStore, content_digest
from model_server.adapters.wanted import Wanted
from model_server.metrics import Metrics
from model_server.options import parse
from model_server.registries import registry_settings

PushImage = Callable[..., Awaitable[str]]


async def test_a_mounted_adapter_is_known_by_what_lies_there_now(tmp_path: Path) -> None:
    acquirer = Acquirer(
        adapter_store=AdapterStore(tmp_path / "store"),
        client=None,
        namespace="n",
        registries=RegistrySettings(),
        base=None,
        max_rank=None,
        metrics=Metrics(CollectorRegistry()),
    )
    folder = tmp_path / "mounted"
    folder.mkdir()
    item, louder = (Wanted(name="a", folder=str(folder), strength=strength) for strength in ("0.5", "1"))
    with pytest.raises(AcquireError, match="no readable adapter"):
        await acquirer.resolve(item)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(b"one")
    first = await acquirer.resolve(item)
    assert first.version.digest == content_digest(folder)
    assert (await acquirer.resolve(louder)).version.digest == first.version.digest
    (folder / "adapter_model.safetensors").write_bytes(b"two")
    second = await acquirer.resolve(louder)
    assert first.version.digest != second.version.digest == content_digest(folder)


def write_adapter(folder: Path) -> Path:
    """Write a LoRA adapter of rank 4 on one layer's o_proj."""
    header, end = {}, 0
    for side, shape in (("A", [4, 64]), ("B", [64, 4])):
        start, end = end, end + 4 * 64 * 2
        name = f"base_model.model.model.layers.0.self_attn.o_proj.lora_{side}.weight"
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


async def test_a_running_server_follows_the_authorities_of_its_registry(
    tls_registry: DockerRegistry, tmp_path: Path, push: PushImage
) -> None:
    """As its pod is told, and as kubelet renews the mounted file under it."""
    folder, image = write_adapter(tmp_path / "adapter"), f"{tls_registry.host}/team/poet:1"
    await push(image, {f"data/{path.name}": path for path in sorted(folder.iterdir())}, tls_registry.ca)
    bundle = tmp_path / "registry-ca.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    options = parse(["serve", "--served-model-name", "phi"], {"KAITO_CA_BUNDLE": str(bundle)})
    store = AdapterStore(tmp_path / "store")
    store.prepare()
    acquirer = Acquirer(
        adapter_store=store,
        client=None,
        namespace="n",
        registries=registry_settings(options),
        base=None,
        max_rank=None,
        metrics=Metrics(CollectorRegistry()),
    )
    item = Wanted(name="poet", image=image, strength="1")
    with pytest.raises(AcquireError, match=r"neither public nor in the CA bundle .*global\.registryCA") as refused:
        await acquirer.resolve(item)
    assert (refused.value.reason, refused.value.retryable) == ("TLSFailed", False)
    assert tls_registry.ca is not None
    bundle.write_bytes(tls_registry.ca.read_bytes())
    version = (await acquirer.resolve(item)).version
    staged = await acquirer.acquire(item, version, lambda: None)
    assert (staged / "adapter_model.safetensors").exists()
