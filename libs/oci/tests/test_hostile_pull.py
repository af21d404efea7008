"""A registry that lies, stalls and sends traps."""

import asyncio
import gzip
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kaito_oci import Limits, OciError, Patience, RegistrySettings, errors, media_types, pull, resolve
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

BLOB = os.urandom(2_000_000)
Trap = Callable[[Request], Reply | None]


def blobs(answer: Callable[[Request], Reply]) -> Trap:
    """Answer GETs of the large blob only."""
    return lambda request: answer(request) if "/blobs/" in request.path and request.method == "GET" else None


def manifests(answer: Callable[[Request], Reply]) -> Trap:
    return lambda request: answer(request) if "/manifests/" in request.path else None


def wrong(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def trickle(pause: float) -> list[bytes | float]:
    return [piece for _ in range(200) for piece in (b" ", pause)]


@pytest.mark.parametrize(
    ("trap", "error"),
    [
        (blobs(lambda _: Reply(body=wrong(BLOB))), errors.DigestMismatch),
        (blobs(lambda _: Reply(body=BLOB + b"more")), errors.DigestMismatch),
        (blobs(lambda _: Reply(body=BLOB[:-10])), errors.Truncated),
        (blobs(lambda _: Reply(body=BLOB[:1000], length=len(BLOB), hang_up=True)), errors.Truncated),
        (blobs(lambda _: Reply(206, {"Content-Range": "bytes 5-9/9"}, BLOB)), errors.DigestMismatch),
        (blobs(lambda _: Reply(404)), errors.NotFound),
        (blobs(lambda _: Reply(503)), errors.Unavailable),
        (blobs(lambda _: Reply(302, {"Location": "ftp://x/y"})), errors.UnsafeLocation),
        (blobs(lambda _: Reply(302, {"Location": "http://elsewhere.example/y"})), errors.UnsafeLocation),
        (blobs(lambda request: Reply(302, {"Location": request.path})), errors.UnsafeLocation),
        (blobs(lambda _: Reply(302)), errors.UnsafeLocation),
        (manifests(lambda _: Reply(200, body=b"{" * 5_000_000)), errors.TooLarge),
        (manifests(lambda _: Reply(200, {"Docker-Content-Digest": "sha256:" + "0" * 64}, b"{}")), errors.DigestMismatch),
        (manifests(lambda _: Reply(200, body=b"<html>captive portal</html>")), errors.InvalidManifest),
        (manifests(lambda _: Reply(418, body=b'{"errors":[{"code":"TEAPOT","message":"\x1b[31mshort"}]}')), errors.UploadRefused),
    ],
    ids=[
        "wrong-digest", "too-long", "content-length-short", "truncated", "other-range", "blob-gone", "unavailable",
        "redirect-scheme", "redirect-to-plain", "redirect-loop", "redirect-nowhere",
        "huge-manifest", "manifest-digest", "html", "teapot",
    ],
)  # fmt: skip
async def test_nothing_hostile_gets_through(
    script: ScriptedRegistry,
    server: ScriptedServer,
    impatient: RegistrySettings,
    tmp_path: Path,
    trap: Trap,
    error: type[OciError],
) -> None:
    script.add_artifact({"weights": BLOB})
    script.overrides.append(trap)
    with pytest.raises(error) as refused:
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert not (tmp_path / "out").exists()
    assert "\x1b" not in str(refused.value)
    if not refused.value.retryable:
        assert os.listdir(tmp_path) == []


def hurry(*, head: float = 60, stall: float = 30) -> Patience:
    """For servers that are too slow on purpose: only the limit that such a server reaches is short."""
    return Patience(head=head, stall=stall, min_rate=1000, attempts=2, backoff=0.01, backoff_cap=0.05)


@pytest.mark.parametrize(
    ("trap", "patience", "error", "words"),
    [
        (
            blobs(lambda _: Reply(body=[BLOB[:10], 10.0, BLOB[10:]])),
            hurry(stall=1.5),
            errors.Truncated,
            "the connection ends after 10 of",
        ),
        (
            blobs(lambda _: Reply(body=trickle(0.02), length=len(BLOB))),
            hurry(stall=1.5),
            errors.Unavailable,
            "less than 1000 bytes/s",
        ),
        (blobs(lambda _: Reply(body=BLOB, head_pause=0.2)), hurry(head=2), errors.Unavailable, "no answer within 2 s"),
        (
            manifests(lambda _: Reply(200, body=[b" " * 100, 10.0], length=10_000)),
            hurry(stall=1.5),
            errors.Unavailable,
            "the connection broke",
        ),
        (
            manifests(lambda _: Reply(200, body=trickle(0.05), length=10_000)),
            hurry(head=2),
            errors.Unavailable,
            "takes longer than 2 s",
        ),
    ],
    ids=["silence", "slow-loris-body", "slow-loris-head", "silent-manifest", "slow-loris-manifest"],
)
async def test_nobody_is_waited_for_without_end(
    script: ScriptedRegistry,
    server: ScriptedServer,
    tmp_path: Path,
    trap: Trap,
    patience: Patience,
    error: type[OciError],
    words: str,
) -> None:
    script.add_artifact({"weights": BLOB})
    script.overrides.append(trap)
    settings = RegistrySettings(plain_http_hosts={server.host}, patience=patience)
    async with asyncio.timeout(60):
        with pytest.raises(error, match=words):
            await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_passing_trouble_is_retried(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path, status: int
) -> None:
    script.add_artifact({"weights": BLOB})
    failures = iter([Reply(status, {"Retry-After": "0"})] * 2)
    script.overrides.append(lambda _: next(failures, None))
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert (tmp_path / "out" / "weights").read_bytes() == BLOB


@pytest.mark.parametrize("kind", ["artifact", "image"])
async def test_another_user_can_read_what_was_pulled(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path, kind: str
) -> None:
    """The weights are pulled by an init container and read by another one, perhaps under another user."""
    if kind == "artifact":
        script.add_artifact({"s/weights": b"w"})
    else:
        script.add_image(tar("data/s/weights"))
    mask = os.umask(0o077)
    try:
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", path="data", plain_http_hosts=[server.host])
    finally:
        os.umask(mask)
    found = {file.name: file.stat().st_mode & 0o777 for file in [tmp_path / "out", *(tmp_path / "out").rglob("[!.]*")]}
    assert found == {"out": 0o755, "s": 0o755, "weights": 0o644}


async def test_retry_after_is_obeyed(script: ScriptedRegistry, server: ScriptedServer) -> None:
    script.add_artifact({"weights": b"w"})
    first = iter([Reply(429, {"Retry-After": "1"})])
    script.overrides.append(lambda _: next(first, None))
    started = time.monotonic()
    await resolve(f"{server.host}/a/b:v1", plain_http_hosts=[server.host])
    assert time.monotonic() - started >= 1


async def test_a_broken_blob_goes_on_by_range(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    """More breaks than attempts: progress between two breaks starts the count anew."""
    script.add_artifact({"weights": BLOB})

    def cut(request: Request) -> Reply | None:
        if "/blobs/" not in request.path:
            return None
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        rest = BLOB[start:]
        answer = Reply(206, {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"}) if start else Reply()
        piece = rest[:300_000]
        return Reply(answer.status, answer.headers, piece, len(rest), hang_up=len(piece) < len(rest))

    script.overrides.append(cut)
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert (tmp_path / "out" / "weights").read_bytes() == BLOB
    asked = [request.headers.get("range") for request in server.seen("GET", "/blobs/")]
    assert asked == [None, *(f"bytes={at}-" for at in range(300_000, len(BLOB), 300_000))]


async def test_a_registry_without_ranges_starts_over_and_still_ends(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    script.add_artifact({"weights": BLOB})
    lengths = iter([500_000, 200_000, 900_000])

    def ignore_ranges(request: Request) -> Reply | None:
        if "/blobs/" not in request.path:
            return None
        length = next(lengths, len(BLOB))
        return Reply(200, body=BLOB[:length], length=len(BLOB), hang_up=length < len(BLOB))

    script.overrides.append(ignore_ranges)
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert (tmp_path / "out" / "weights").read_bytes() == BLOB


async def test_a_later_call_goes_on_where_an_earlier_one_stopped(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    script.add_artifact({"weights": BLOB})
    script.overrides.append(
        lambda request: Reply(body=BLOB[:1_500_000], length=len(BLOB), hang_up=True)
        if "/blobs/" in request.path and "range" not in request.headers
        else Reply(503) if "range" in request.headers else None
    )  # fmt: skip
    with pytest.raises(errors.Unavailable):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    script.overrides.clear()
    server.requests.clear()
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert [request.headers["range"] for request in server.seen("GET", "/blobs/")] == ["bytes=1500000-"]
    assert (tmp_path / "out" / "weights").read_bytes() == BLOB


async def test_bytes_left_by_an_earlier_call_are_not_trusted(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    digest = script.add_artifact({"weights": BLOB})
    tree = tmp_path / f".out.pull-{digest[7:23]}" / "tree"
    tree.mkdir(parents=True)
    (tree / "weights.part").write_bytes(b"poison")
    with pytest.raises(errors.DigestMismatch):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert (tmp_path / "out" / "weights").read_bytes() == BLOB


def tar(*names: str, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as whole:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            whole.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("layer", "media_type", "error"),
    [
        (tar("data/../../escape"), media_types.OCI_LAYER_TAR, errors.UnsafeArchive),
        (gzip.compress(tar("data/a", content=bytes(3 * 10**7))), media_types.OCI_LAYER_GZIP, errors.UnsafeArchive),
        (b"no tar at all, and long enough to be a header" * 20, media_types.OCI_LAYER_TAR, errors.UnsafeArchive),
        (tar("other/a"), media_types.OCI_LAYER_TAR, errors.NotFound),
        (tar("data/a"), "application/vnd.example.layer", errors.UnsupportedMediaType),
        (tar(*(f"data/{count}" for count in range(60))), media_types.OCI_LAYER_TAR, errors.TooLarge),
    ],
    ids=["traversal", "bomb", "no-tar", "no-data", "media-type", "many-files"],
)
async def test_hostile_layers_leave_nothing(
    script: ScriptedRegistry,
    server: ScriptedServer,
    impatient: RegistrySettings,
    tmp_path: Path,
    layer: bytes,
    media_type: str,
    error: type[OciError],
) -> None:
    script.add_image(layer, media_type=media_type)
    limits = Limits(ratio_floor=10**6, max_files=50)
    with pytest.raises(error):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", path="/data", settings=impatient, limits=limits)
    assert os.listdir(tmp_path) == []


async def test_what_a_cut_layer_left_never_reaches_the_result(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    """Bytes of an image layer that was never verified must not survive into a later, good pull."""
    script.add_image(tar("data/good"))
    evil = tar("data/evil", "data/good")
    script.overrides.append(
        lambda request: Reply(body=evil[:1536], length=10240, hang_up=True)
        if "/blobs/" in request.path and "range" not in request.headers
        else Reply(503) if "/blobs/" in request.path else None
    )  # fmt: skip
    with pytest.raises(errors.Unavailable):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", path="/data", settings=impatient)
    script.overrides.clear()
    await pull(f"{server.host}/a/b:v1", tmp_path / "out", path="/data", settings=impatient)
    assert sorted(os.listdir(tmp_path / "out")) == [".oci-pull.json", "good"]


async def test_redirects_to_storage_carry_no_credentials(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path
) -> None:
    from kaito_oci import DockerConfigs

    script.add_artifact({"weights": BLOB})
    auth = DockerConfigs(b'{"auths":{"' + server.host.encode() + b'":{"auth":"dTpw"}}}')
    async with scripted_server(lambda _: Reply(body=BLOB), name="localhost") as storage:

        def locked(request: Request) -> Reply | None:
            if request.headers.get("authorization") != "Basic dTpw":
                return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
            if "/blobs/" in request.path:
                return Reply(307, {"Location": f"http://{storage.host}/bucket/key?signature=1"})
            return None

        script.overrides.append(locked)
        hosts = [server.host, storage.host]
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", auth=auth, plain_http_hosts=hosts)
        assert (tmp_path / "out" / "weights").read_bytes() == BLOB
        assert storage.requests
        assert not any("authorization" in request.headers for request in storage.requests)


@pytest.mark.parametrize("where", ["in the head", "in the body"])
async def test_cancelling_ends_the_network_call_at_once_and_leaves_no_thread(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path, where: str
) -> None:
    script.add_artifact({"weights": BLOB})
    before = set(threading.enumerate())
    called = asyncio.Event()
    progress = (lambda _done, _total: called.set()) if where == "in the body" else None
    slow = Reply(body=[BLOB[:10], 120.0, BLOB[10:]]) if progress else Reply(body=BLOB, head_pause=120.0)

    def trap(_: Request) -> Reply:
        if not progress:
            called.set()
        return slow

    script.overrides.append(blobs(trap))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        name = f"{server.host}/a/b:v1"
        pulling = group.create_task(pull(name, tmp_path / "out", plain_http_hosts=[server.host], progress=progress))
        await called.wait()
        pulling.cancel()
    assert pulling.cancelled()
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("asyncio_"):
            await asyncio.to_thread(thread.join, 30)  # a timer that was called off ends by itself
            assert not thread.is_alive(), thread.name
    assert not (tmp_path / "out").exists()


async def test_a_full_disk_is_said(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path
) -> None:
    """A manifest that promises more than any disk holds is refused before anything is fetched."""
    config = {"mediaType": media_types.OCI_EMPTY, **script.add_blob(b"{}")}
    layer = {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 2**39, "annotations": {media_types.TITLE: "w"}}
    script.add_manifest({"schemaVersion": 2, "config": config, "layers": [layer]})
    with pytest.raises(errors.DiskFull, match="MiB free"):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=impatient)
    assert os.listdir(tmp_path) == []
