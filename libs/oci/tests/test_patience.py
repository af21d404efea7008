"""What a registry that gives just enough to seem alive may cost, and what failures of this side are called."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kaito_oci import (
    Blob,
    BytesBlob,
    FileBlob,
    Member,
    Patience,
    RegistrySettings,
    TarBlob,
    errors,
    media_types,
    peek,
    pull,
    push,
)
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer

pytestmark = pytest.mark.slow  # sockets that are waited for

BLOB = os.urandom(2_000_000)


def drip(bytes_at_once: int, head_pause: float = 0.0) -> Callable[[Request], Reply | None]:
    """Some bytes of a blob from where the client wants them, then the connection ends."""

    def answer(request: Request) -> Reply | None:
        if "/blobs/" not in request.path:
            return None
        start = int(request.headers.get("range", "bytes=0-")[6:].partition("-")[0])
        headers = {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"} if start else {}
        piece, left = BLOB[start : start + bytes_at_once], len(BLOB) - start
        return Reply(206 if start else 200, headers, piece, left, hang_up=True, head_pause=head_pause)

    return answer


@pytest.mark.parametrize(
    ("answer", "stall", "connections"),
    [(drip(1), 30, 3), (drip(400), 30, 3), (drip(1500, head_pause=0.03), 1, 4)],
    ids=["a byte", "less than a live line brings", "a slow head before each piece"],
)
async def test_a_dripping_registry_ends_a_pull(
    script: ScriptedRegistry,
    server: ScriptedServer,
    tmp_path: Path,
    answer: Callable[[Request], Reply | None],
    stall: float,
    connections: int,
) -> None:
    script.add_artifact({"weights": BLOB})
    script.overrides.append(answer)
    patience = Patience(attempts=3, stall=stall, min_rate=1000, backoff=0.01, backoff_cap=0.05)
    settings = RegistrySettings(plain_http_hosts={server.host}, patience=patience)
    async with asyncio.timeout(50):
        with pytest.raises(errors.Truncated):
            await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=settings)
    assert len(server.seen("GET", "/blobs/")) <= connections


async def test_a_slow_body_counts_across_its_connections(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path
) -> None:
    """No connection lives long enough to be slow by itself: it is the third one's 3 s that pass the 7.5 of the limit."""
    script.add_artifact({"weights": BLOB})

    def answer(request: Request) -> Reply | None:
        found = drip(10)(request)
        if found is None:
            return None
        assert isinstance(found.body, bytes)
        return Reply(found.status, found.headers, [found.body, 3.0], found.length, hang_up=True)

    script.overrides.append(answer)
    patience = Patience(attempts=4, stall=7.5, min_rate=1000, backoff=0.01, backoff_cap=0.05)
    settings = RegistrySettings(plain_http_hosts={server.host}, patience=patience)
    async with asyncio.timeout(50):
        with pytest.raises(errors.Unavailable, match="less than 1000 bytes/s"):
            await pull(f"{server.host}/a/b:v1", tmp_path / "out", settings=settings)


@pytest.mark.parametrize("kind", [FileBlob, TarBlob])
@pytest.mark.parametrize("gone", ["absent", "folder"])
async def test_a_file_of_ours_that_cannot_be_read_is_not_the_registrys_fault(
    server: ScriptedServer, impatient: RegistrySettings, tmp_path: Path, kind: type, gone: str
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(BLOB)
    if kind is FileBlob:
        blob: Blob = FileBlob(path, "application/octet-stream", {media_types.TITLE: "weights"})
    else:
        blob = TarBlob([Member("data/weights", path)], media_types.OCI_LAYER_TAR)
    config = BytesBlob(b"{}", media_types.OCI_EMPTY)
    manifest = {"schemaVersion": 2, "config": config.descriptor, "layers": [blob.descriptor]}
    path.unlink()
    if gone == "folder":
        path.mkdir()
    with pytest.raises(errors.FileUnreadable, match="weights") as refused:
        await push(f"{server.host}/a/b:v1", [config, blob], msgspec.json.encode(manifest), settings=impatient)
    assert not refused.value.retryable
    assert server.host not in str(refused.value)


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
async def test_a_look_asks_for_no_more_than_it_wants(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, ranges: bool
) -> None:
    script.add_artifact({"config": b'{"r": 4}', "weights": BLOB})
    if not ranges:
        script.overrides.append(
            lambda request: Reply(200, body=BLOB)
            if "/blobs/" in request.path and request.headers.get("range", "").endswith("-65535")
            else None
        )  # fmt: skip
    wanted = {"config": lambda _: 1000, "weights": lambda have: 100_000 if have else 8}
    found = await peek(f"{server.host}/a/b:v1", wanted, settings=impatient)
    assert found.files["config"].content == b'{"r": 4}'
    assert found.files["weights"].content == BLOB[:100_000]
    asked = [request.headers.get("range") for request in server.seen("GET", "/blobs/")]
    assert asked == ["bytes=0-65535", *(["bytes=65536-99999"] if ranges else []), None]
