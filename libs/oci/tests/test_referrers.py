"""The list of referrers that a client keeps where the registry keeps none (Debian's knows no subjects), and small blobs."""

import msgspec
import pytest

from kaito_oci import BytesBlob, Descriptor, Reference, errors, list_referrer, media_types, push, read_blob
from kaito_oci.referrers import fallback_tag
from kaito_oci.session import manifest_of
from kaito_oci.testing.docker_registry import DockerRegistry
from kaito_oci.testing.scripted_server import Reply, Request, scripted_server

SUBJECT = "sha256:" + "5" * 64


def entry(number: int) -> Descriptor:
    return Descriptor(
        media_type=media_types.OCI_MANIFEST, digest=f"sha256:{number:064x}", size=number, artifact_type="application/x"
    )


async def add(registry: DockerRegistry, referrer: Descriptor) -> None:
    subject = Reference(registry.host, "team/model", "", SUBJECT)
    await list_referrer(subject, referrer, plain_http_hosts=[registry.host])


async def listed(registry: DockerRegistry) -> bytes:
    place = Reference(registry.host, "team/model", fallback_tag(SUBJECT))
    return (await manifest_of(place, plain_http_hosts=[registry.host]))[0]


async def stored_manifest(registry: DockerRegistry, text: str) -> Descriptor:
    """A registry lists in an index only what it has."""
    config = BytesBlob(text.encode(), media_types.OCI_EMPTY)
    whole = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": "application/x",
        "config": config.descriptor,
        "layers": [],
    }
    content = msgspec.json.encode(whole)
    name = f"{registry.host}/team/model:{text}"
    result = await push(name, [config], content, plain_http_hosts=[registry.host])
    assert not result.subject_known
    return Descriptor(
        media_type=media_types.OCI_MANIFEST, digest=result.digest, size=len(content), artifact_type="application/x"
    )


async def test_referrers_are_added_once_and_others_are_kept(registry: DockerRegistry) -> None:
    first, second = await stored_manifest(registry, "a"), await stored_manifest(registry, "b")
    await add(registry, first)
    await add(registry, first)
    once = await listed(registry)
    foreign = msgspec.json.decode(once)
    foreign["manifests"][0]["urls"] = ["https://example.org/kept"]
    place = f"{registry.host}/team/model:{fallback_tag(SUBJECT)}"
    whole = msgspec.json.encode(foreign)
    await push(place, [], whole, media_type=media_types.OCI_INDEX, plain_http_hosts=[registry.host])
    await add(registry, second)
    found = msgspec.json.decode(await listed(registry))["manifests"]
    assert [item["digest"] for item in found] == [first.digest, second.digest]
    assert [item["artifactType"] for item in found] == ["application/x"] * 2
    assert found[0]["urls"] == ["https://example.org/kept"]


async def test_something_else_under_that_tag_is_not_replaced(registry: DockerRegistry) -> None:
    await stored_manifest(registry, fallback_tag(SUBJECT))
    with pytest.raises(errors.InvalidManifest, match="no index"):
        await add(registry, entry(1))


async def test_a_registry_that_knows_subjects_says_so() -> None:
    def modern(request: Request) -> Reply:
        if request.method == "POST":
            return Reply(202, {"Location": "/v2/a/b/blobs/uploads/1"})
        if request.method == "PUT":
            return Reply(201, {"OCI-Subject": SUBJECT})
        return Reply(204)

    async with scripted_server(modern) as server:
        result = await push(f"{server.host}/a/b:v1", [], b"{}", plain_http_hosts=[server.host])
    assert result.subject_known


async def test_a_small_blob_is_verified_and_bounded(registry: DockerRegistry) -> None:
    name, blob = f"{registry.host}/team/model:v1", BytesBlob(b"signed words", "text/plain")
    config = BytesBlob(b"{}", media_types.OCI_EMPTY)
    whole = {"schemaVersion": 2, "config": config.descriptor, "layers": [blob.descriptor]}
    await push(name, [config, blob], msgspec.json.encode(whole), plain_http_hosts=[registry.host])
    assert await read_blob(name, blob.descriptor, plain_http_hosts=[registry.host]) == b"signed words"
    with pytest.raises(errors.TooLarge):
        await read_blob(name, blob.descriptor, most=5, plain_http_hosts=[registry.host])
    registry.blob_path(blob.descriptor.digest).write_bytes(b"SIGNED WORDS")
    with pytest.raises(errors.DigestMismatch):
        await read_blob(name, blob.descriptor, plain_http_hosts=[registry.host])
