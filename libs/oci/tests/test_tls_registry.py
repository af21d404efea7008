"""A real registry that speaks TLS with an authority of its own."""

from pathlib import Path

import msgspec
import pytest

from kaito_oci import BytesBlob, RegistrySettings, errors, media_types, pull, push, resolve
from kaito_oci.testing.docker_registry import DockerRegistry


async def test_what_is_pushed_over_tls_comes_back(tls_registry: DockerRegistry, tmp_path: Path) -> None:
    name, settings = f"{tls_registry.host}/team/model:v1", RegistrySettings(ca_bundle=str(tls_registry.ca))
    config = BytesBlob(b"{}", media_types.OCI_EMPTY)
    file = BytesBlob(b"w" * 1_000_000, media_types.OCI_LAYER_TAR, {media_types.TITLE: "weights"})
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [file.descriptor],
    }
    with pytest.raises(errors.NotFound):
        await resolve(name, settings=settings)
    await push(name, [config, file], msgspec.json.encode(manifest), settings=settings)
    await pull(name, tmp_path / "out", settings=settings)
    assert (tmp_path / "out" / "weights").read_bytes() == b"w" * 1_000_000


async def test_without_the_authority_it_is_refused(tls_registry: DockerRegistry) -> None:
    with pytest.raises(errors.TlsFailed, match="CA bundle"):
        await resolve(f"{tls_registry.host}/team/model:v1")
