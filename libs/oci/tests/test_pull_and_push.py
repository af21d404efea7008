"""Against the real registry, in both directions, and beside the tools that users have."""

import asyncio
import gzip
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import oras.client
import pytest

from kaito_oci import (
    Blob,
    BytesBlob,
    DockerConfigs,
    FileBlob,
    Limits,
    Member,
    PushResult,
    TarBlob,
    check_push,
    errors,
    inspect,
    media_types,
    peek,
    pull,
    push,
    resolve,
)
from kaito_oci.testing.docker_registry import DockerRegistry, docker_registry

WEIGHTS = os.urandom(3_000_000)


def manifest(config: Blob, layers: Sequence[Blob], **more: object) -> bytes:
    whole = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [layer.descriptor for layer in layers],
        **more,
    }
    return msgspec.json.encode(whole)


async def push_image(
    registry: DockerRegistry, reference: str, *layers: Blob, auth: DockerConfigs | None = None
) -> PushResult:
    config = BytesBlob(
        msgspec.json.encode(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [layer.descriptor.digest for layer in layers]},
            }
        ),
        media_types.OCI_CONFIG,
    )
    return await push(
        reference, [config, *layers], manifest(config, layers), auth=auth, plain_http_hosts=[registry.host]
    )


def data_layer(**files: bytes) -> TarBlob:
    return TarBlob([Member(f"data/{name}", content) for name, content in files.items()], media_types.OCI_LAYER_TAR)


def read(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".oci-pull.json"
    }


async def test_an_image_comes_back_as_it_went(registry: DockerRegistry, tmp_path: Path) -> None:
    name, seen = f"{registry.host}/team/model:v1", []
    pushed = await push_image(registry, name, data_layer(weights=WEIGHTS, config=b"{}"))
    result = await pull(
        name, tmp_path / "out", path="/data", plain_http_hosts=[registry.host], progress=lambda *at: seen.append(at)
    )
    assert read(tmp_path / "out") == {"weights": WEIGHTS, "config": b"{}"}
    assert result.digest == pushed.digest == await resolve(name, plain_http_hosts=[registry.host])
    assert (result.files, result.bytes, result.cached) == (("config", "weights"), len(WEIGHTS) + 2, False)
    await asyncio.sleep(0)
    assert seen[-1][0] == seen[-1][1] > len(WEIGHTS)
    assert sorted(os.listdir(tmp_path)) == ["out", "registry"]


async def test_a_second_push_sends_nothing_and_a_second_pull_fetches_nothing(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    name = f"{registry.host}/team/model:v1"
    first = await push_image(registry, name, data_layer(weights=WEIGHTS))
    again = await push_image(registry, name, data_layer(weights=WEIGHTS))
    assert (again.digest, again.uploaded) == (first.digest, 0)
    assert first.uploaded > len(WEIGHTS)
    for expected in (False, True):
        result = await pull(name, tmp_path / "out", path="/data", plain_http_hosts=[registry.host])
        assert result.cached is expected
    (tmp_path / "out" / "weights").write_bytes(b"short")
    assert not (await pull(name, tmp_path / "out", path="/data", plain_http_hosts=[registry.host])).cached
    assert read(tmp_path / "out") == {"weights": WEIGHTS}


async def test_a_mounted_folder_is_filled_in_place_and_follows_the_tag(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    name, mount = f"{registry.host}/team/model:v1", tmp_path / "mount"
    mount.mkdir()
    inode = mount.stat().st_ino
    (mount / "lost+found").mkdir()
    await push_image(registry, name, data_layer(old=b"1", both=b"1"))
    await pull(name, mount, path="/data", plain_http_hosts=[registry.host])
    await push_image(registry, name, data_layer(new=b"2", both=b"2"))
    await pull(name, mount, path="/data", plain_http_hosts=[registry.host])
    assert read(mount) == {"new": b"2", "both": b"2"}
    assert mount.stat().st_ino == inode
    (mount / "mine").write_bytes(b"user")
    await push_image(registry, name, data_layer(mine=b"theirs"))
    with pytest.raises(errors.DestinationInUse, match="mine"):
        await pull(name, mount, path="/data", plain_http_hosts=[registry.host])
    assert (mount / "mine").read_bytes() == b"user"


async def test_what_oras_py_pushed_is_pulled_and_the_reverse(
    registry: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry.host}/team/files:v1"
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(WEIGHTS)
    (tmp_path / "sub" / "b.txt").write_bytes(b"text")
    monkeypatch.chdir(tmp_path)
    client = oras.client.OrasClient(insecure=True)
    await asyncio.to_thread(client.push, name, files=["a.bin", "sub"], quiet=True)
    await pull(name, tmp_path / "ours", plain_http_hosts=[registry.host])
    assert read(tmp_path / "ours") == {"a.bin": WEIGHTS, "sub/b.txt": b"text"}

    file = FileBlob(tmp_path / "a.bin", media_types.OCI_LAYER_TAR, {media_types.TITLE: "a.bin"})
    config = BytesBlob(b"{}", media_types.OCI_EMPTY)
    await push(name, [file, config], manifest(config, [file]), plain_http_hosts=[registry.host])
    await asyncio.to_thread(client.pull, name, outdir=str(tmp_path / "theirs"))
    assert read(tmp_path / "theirs") == {"a.bin": WEIGHTS}


async def test_kaitos_puller_reads_our_image(registry: DockerRegistry, tmp_path: Path) -> None:
    """The steps of KAITO's puller script: skopeo to a folder, decompressing, then tar."""
    name, layout = f"{registry.host}/team/adapter:v1", tmp_path / "layout"
    layer = data_layer(adapter=WEIGHTS)
    await push_image(registry, name, layer)
    skopeo = ["skopeo", "copy", "--src-tls-verify=false", "--dest-decompress", f"docker://{name}", f"dir:{layout}"]
    await asyncio.to_thread(subprocess.run, skopeo, check=True, capture_output=True)
    rootfs = tmp_path / "rootfs"
    rootfs.mkdir()
    packed = layout / layer.descriptor.digest.partition(":")[2]
    await asyncio.to_thread(subprocess.run, ["tar", "x", "-f", packed, "-C", rootfs], check=True)
    assert read(rootfs) == {"data/adapter": WEIGHTS}


async def test_index_docker_types_gzip_and_several_layers(registry: DockerRegistry, tmp_path: Path) -> None:
    name, hosts = f"{registry.host}/team/multi", [registry.host]
    digests = {}
    for cpu in ("amd64", "arm64"):
        reader, whole = data_layer(cpu=cpu.encode()).open(), bytearray()
        while block := reader.read(10_000):
            whole += block
        low = BytesBlob(gzip.compress(bytes(whole), mtime=0), media_types.DOCKER_LAYER_GZIP)
        high = TarBlob([Member("data/.wh.gone", b""), Member("data/top", b"2")], media_types.DOCKER_LAYER_TAR)
        config = BytesBlob(b'{"architecture":"' + cpu.encode() + b'","os":"linux"}', media_types.DOCKER_CONFIG)
        body = manifest(config, [low, high], mediaType=media_types.DOCKER_MANIFEST)
        digests[cpu] = (
            await push(
                f"{name}:{cpu}",
                [config, low, high],
                body,
                media_type=media_types.DOCKER_MANIFEST,
                plain_http_hosts=hosts,
            ),
            body,
        )
    entries = [
        {
            "mediaType": media_types.DOCKER_MANIFEST,
            "digest": found.digest,
            "size": len(body),
            "platform": {"os": "linux", "architecture": cpu},
        }
        for cpu, (found, body) in digests.items()
    ]
    index = msgspec.json.encode({"schemaVersion": 2, "mediaType": media_types.DOCKER_LIST, "manifests": entries})
    top = await push(f"{name}:all", [], index, media_type=media_types.DOCKER_LIST, plain_http_hosts=hosts)
    from kaito_oci import Platform

    arm = Platform(os="linux", architecture="arm64")
    result = await pull(f"{name}:all", tmp_path / "out", path="data", plain_http_hosts=hosts, platform=arm)
    assert read(tmp_path / "out") == {"cpu": b"arm64", "top": b"2"}
    assert (result.digest, result.manifest_digest) == (top.digest, digests["arm64"][0].digest)


async def test_private_registry(locked_registry: DockerRegistry, tmp_path: Path) -> None:
    name, hosts = f"{locked_registry.host}/team/model:v1", [locked_registry.host]
    good = DockerConfigs(locked_registry.dockerconfigjson())
    await check_push(name, auth=good, plain_http_hosts=hosts)
    await push_image(locked_registry, name, data_layer(weights=b"w"), auth=good)
    await pull(name, tmp_path / "out", path="/data", auth=good, plain_http_hosts=hosts)
    wrong = locked_registry.dockerconfigjson(password="wrong")
    for auth in (None, DockerConfigs(wrong)):
        for attempt in (resolve, check_push):
            with pytest.raises(errors.Unauthorized) as refused:
                await attempt(name, auth=auth, plain_http_hosts=hosts)
            assert ("no credentials" in str(refused.value)) is (auth is None)
            assert "wrong" not in str(refused.value)
    both = DockerConfigs(wrong, locked_registry.dockerconfigjson())
    assert (await inspect(name, auth=both, plain_http_hosts=hosts)).manifest.is_image


async def test_checking_push_rights_leaves_nothing_behind(registry: DockerRegistry) -> None:
    await check_push(f"{registry.host}/team/new:v1", plain_http_hosts=[registry.host])
    # This registry writes an empty hash state after it has removed a cancelled session; the session itself must be gone.
    assert [path for path in registry.storage.rglob("*") if path.is_file() and "hashstates" not in path.parts] == []


async def test_a_registry_that_is_read_only_says_so(tmp_path: Path) -> None:
    async with docker_registry(tmp_path, read_only=True) as registry:
        with pytest.raises(errors.UploadRefused, match="405"):
            await check_push(f"{registry.host}/team/new:v1", plain_http_hosts=[registry.host])


@pytest.mark.parametrize("missing", ["repository:v1", "model:v2", "model@sha256:" + "0" * 64])
async def test_what_is_not_there(registry: DockerRegistry, tmp_path: Path, missing: str) -> None:
    await push_image(registry, f"{registry.host}/team/model:v1", data_layer(weights=b"w"))
    with pytest.raises(errors.NotFound):
        await pull(f"{registry.host}/team/{missing}", tmp_path / "out", plain_http_hosts=[registry.host])
    assert not (tmp_path / "out").exists()


async def test_https_unless_the_host_is_named_plain(registry: DockerRegistry) -> None:
    with pytest.raises(errors.TlsFailed, match="plain-http"):
        await resolve(f"{registry.host}/team/model:v1")


async def test_damage_in_the_registrys_own_storage_is_noticed(registry: DockerRegistry, tmp_path: Path) -> None:
    name, layer = f"{registry.host}/team/model:v1", data_layer(weights=WEIGHTS)
    await push_image(registry, name, layer)
    stored = registry.blob_path(layer.descriptor.digest)
    content = bytearray(stored.read_bytes())
    content[1_000_000] ^= 1
    stored.write_bytes(content)
    with pytest.raises(errors.DigestMismatch):
        await pull(name, tmp_path / "out", path="/data", plain_http_hosts=[registry.host])
    assert sorted(os.listdir(tmp_path)) == ["registry"]


async def test_caps_and_free_space_are_looked_at_before_anything_is_fetched(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    name = f"{registry.host}/team/model:v1"
    await push_image(registry, name, data_layer(weights=WEIGHTS))
    with pytest.raises(errors.TooLarge):
        await pull(name, tmp_path / "o", plain_http_hosts=[registry.host], limits=Limits(max_bytes=1_000_000))


async def test_peek_reads_the_beginnings_only(registry: DockerRegistry) -> None:
    name = f"{registry.host}/team/model:v1"
    await push_image(registry, name, data_layer(a_config=b'{"r": 4}', weights=WEIGHTS))
    found = await peek(
        name,
        {"a_config": lambda _: 1000, "weights": lambda _: 64, "absent": lambda _: 1},
        path="/data",
        plain_http_hosts=[registry.host],
    )
    assert {file: (start.content, start.size) for file, start in found.files.items()} == {
        "a_config": (b'{"r": 4}', 8),
        "weights": (WEIGHTS[:64], len(WEIGHTS)),
    }
    assert found.seen == ("a_config", "weights")


async def test_a_file_that_changes_between_digest_and_upload_is_refused(
    registry: DockerRegistry, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"before" * 1000)
    blob = FileBlob(file, "application/octet-stream", {media_types.TITLE: "f"})
    config = BytesBlob(b"{}", media_types.OCI_EMPTY)
    for content, error in ((b"afters" * 1000, errors.UploadRefused), (b"short", errors.FileChanged)):
        file.write_bytes(content)
        with pytest.raises(error):
            await push(
                f"{registry.host}/team/f:v1", [blob, config], manifest(config, [blob]), plain_http_hosts=[registry.host]
            )
    with pytest.raises(errors.NotFound):
        await resolve(f"{registry.host}/team/f:v1", plain_http_hosts=[registry.host])
