"""Encrypted connections, with an authority of the test's own."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from kaito_oci import Patience, Reference, RegistrySettings, errors, pull, resolve
from kaito_oci.session import open_session
from kaito_oci.testing.docker_registry import DockerRegistry
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, ScriptedServer, scripted_server

RETRIES = Patience(attempts=3, backoff=0.01, backoff_cap=0.05)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


@pytest.fixture
async def encrypted(script: ScriptedRegistry, authority: trustme.CA) -> AsyncIterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with scripted_server(script, "localhost", context) as running:
        yield running


async def test_a_trusted_authority(
    script: ScriptedRegistry, encrypted: ScriptedServer, bundle: str, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    script.add_artifact({"weights": content})
    await pull(f"{encrypted.host}/a/b:v1", tmp_path / "out", settings=RegistrySettings(ca_bundle=bundle))
    assert (tmp_path / "out" / "weights").read_bytes() == content


class Front:
    """Stands before an encrypted server and passes its bytes on; the first `cut` connections end within the handshake."""

    def __init__(self, behind: ScriptedServer) -> None:
        self.cut = 0
        self.connections = 0
        self.host = ""
        self._port = int(behind.host.rpartition(":")[2])

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        hello = await reader.read(65536)
        if self.connections <= self.cut:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        back.write(hello)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(reader, back))
            group.create_task(_pump(there, writer))


@pytest.fixture
async def front(encrypted: ScriptedServer) -> AsyncIterator[Front]:
    made = Front(encrypted)
    server = await asyncio.start_server(made.relay, "127.0.0.1", 0)
    made.host = f"localhost:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


async def test_an_unknown_authority_is_refused_without_retries(front: Front, encrypted: ScriptedServer) -> None:
    with pytest.raises(errors.TlsFailed, match="CA bundle"):
        await resolve(f"{front.host}/a/b:v1", settings=RegistrySettings(patience=RETRIES))
    assert front.connections == 1
    assert encrypted.requests == []


async def test_a_name_that_is_not_the_certificates_is_refused(encrypted: ScriptedServer, bundle: str) -> None:
    other = encrypted.host.replace("localhost", "127.0.0.1")
    with pytest.raises(errors.TlsFailed):
        await resolve(f"{other}/a/b:v1", settings=RegistrySettings(ca_bundle=bundle))


async def test_encryption_is_not_dropped_by_a_redirect(
    script: ScriptedRegistry, encrypted: ScriptedServer, bundle: str, tmp_path: Path
) -> None:
    script.add_artifact({"weights": b"w"})
    async with scripted_server(lambda _: Reply(body=b"w")) as plain:
        target = f"http://{plain.host}/w"
        script.overrides.append(lambda request: Reply(307, {"Location": target}) if "/blobs/" in request.path else None)
        with pytest.raises(errors.UnsafeLocation, match="without encryption"):
            await pull(f"{encrypted.host}/a/b:v1", tmp_path / "out", settings=RegistrySettings(ca_bundle=bundle))
        assert plain.requests == []


async def test_cancelling_cuts_an_encrypted_connection(
    script: ScriptedRegistry, encrypted: ScriptedServer, bundle: str, tmp_path: Path
) -> None:
    script.add_artifact({"weights": b"w" * 100})
    slow, begun = Reply(body=[b"w", 120.0], length=100), asyncio.Event()
    script.overrides.append(lambda request: slow if "/blobs/" in request.path else None)
    settings, name = RegistrySettings(ca_bundle=bundle), f"{encrypted.host}/a/b:v1"
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        pulling = group.create_task(
            pull(name, tmp_path / "out", settings=settings, progress=lambda _done, _total: begun.set())
        )
        await begun.wait()
        pulling.cancel()
    assert pulling.cancelled()


async def test_the_bundle_is_trusted_besides_the_public_authorities(
    script: ScriptedRegistry,
    encrypted: ScriptedServer,
    bundle: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A private registry whose blobs lie with a provider that everybody knows."""
    public = trustme.CA()
    public.cert_pem.write_to_path(tmp_path / "public.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "public.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    public.issue_cert("127.0.0.1").configure_cert(context)
    script.add_artifact({"weights": b"w"})
    async with scripted_server(lambda _: Reply(body=b"w"), tls=context) as storage:
        away = Reply(307, {"Location": f"https://{storage.host}/w"})
        script.overrides.append(lambda request: away if "/blobs/" in request.path else None)
        await pull(f"{encrypted.host}/a/b:v1", tmp_path / "out", settings=RegistrySettings(ca_bundle=bundle))
        assert (tmp_path / "out" / "weights").read_bytes() == b"w"
        with pytest.raises(errors.TlsFailed, match=f"^{encrypted.host}: .* not public"):
            await resolve(f"{encrypted.host}/a/b:v1")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        with pytest.raises(errors.TlsFailed, match=f"^{storage.host}: .* nor in the CA bundle"):
            await pull(f"{encrypted.host}/a/b:v1", tmp_path / "no", settings=RegistrySettings(ca_bundle=bundle))


async def test_mozillas_list_stays(script: ScriptedRegistry, encrypted: ScriptedServer, bundle: str) -> None:
    script.add_artifact({"weights": b"w"})
    name, settings = Reference.parse(f"{encrypted.host}/a/b:v1"), RegistrySettings(ca_bundle=bundle)
    async with open_session(name, lambda client: client.head_manifest("v1"), settings=settings) as (_, client, _):
        used = client.session.get_adapter("https://").poolmanager.connection_pool_kw["ssl_context"]
        assert used.cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_token_endpoint_is_trusted_by_the_same_file(
    script: ScriptedRegistry, server: ScriptedServer, authority: trustme.CA, bundle: str, trusted: bool
) -> None:
    script.add_artifact({"weights": b"w"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with scripted_server(lambda _: Reply(body=b'{"token":"t"}'), "localhost", context) as realm:
        asked = Reply(401, {"WWW-Authenticate": f'Bearer realm="https://{realm.host}/token",service="s"'})
        script.overrides.append(lambda request: None if request.headers.get("authorization") == "Bearer t" else asked)
        settings = RegistrySettings(plain_http_hosts={server.host}, ca_bundle=bundle if trusted else "")
        if trusted:
            assert await resolve(f"{server.host}/a/b:v1", settings=settings)
            return
        with pytest.raises(errors.TlsFailed, match=f"^{realm.host}: .* CA bundle"):
            await resolve(f"{server.host}/a/b:v1", settings=settings)
        assert len(server.requests) == 1, "not tried again"


async def test_a_renewed_bundle_counts_from_the_next_call_on(
    script: ScriptedRegistry, encrypted: ScriptedServer, authority: trustme.CA, tmp_path: Path
) -> None:
    script.add_artifact({"weights": b"w"})
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    settings = RegistrySettings(ca_bundle=str(file))
    with pytest.raises(errors.TlsFailed):
        await resolve(f"{encrypted.host}/a/b:v1", settings=settings)
    authority.cert_pem.write_to_path(file)
    assert await resolve(f"{encrypted.host}/a/b:v1", settings=settings)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: No such file"), (b"", "certificates in PEM"), (b"\0", "in PEM")]
)
async def test_a_bundle_that_is_none_is_named(
    encrypted: ScriptedServer, tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(errors.TlsFailed, match=f"the CA bundle {file} .*{words}"):
        await resolve(f"{encrypted.host}/a/b:v1", settings=RegistrySettings(ca_bundle=str(file)))


async def test_each_failure_has_its_own_words(
    script: ScriptedRegistry, registry: DockerRegistry, encrypted: ScriptedServer, authority: trustme.CA, bundle: str
) -> None:
    settings = RegistrySettings(ca_bundle=bundle)
    with pytest.raises(errors.TlsFailed, match=r"another name .*127\.0\.0\.1"):
        await resolve(f"{encrypted.host.replace('localhost', '127.0.0.1')}/a/b:v1", settings=settings)
    with pytest.raises(errors.TlsFailed, match="does not speak TLS: name the host as plain-http"):
        await resolve(f"{registry.host}/a/b:v1", settings=settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    late = datetime(2020, 1, 1, tzinfo=UTC)
    authority.issue_cert("127.0.0.1", not_after=late, not_before=late - timedelta(days=9)).configure_cert(context)
    async with scripted_server(script, tls=context) as expired:
        with pytest.raises(errors.TlsFailed, match=r"out of date .*expired"):
            await resolve(f"{expired.host}/a/b:v1", settings=settings)


async def test_a_handshake_that_is_cut_is_tried_again(script: ScriptedRegistry, front: Front, bundle: str) -> None:
    """A registry behind a load balancer restarts: the connection ends before there is any certificate."""
    script.add_artifact({"weights": b"w"})
    settings = RegistrySettings(ca_bundle=bundle, patience=RETRIES)
    front.cut = 2
    assert await resolve(f"{front.host}/a/b:v1", settings=settings)
    front.cut = 99
    with pytest.raises(errors.Unavailable, match="after 3 tries"):
        await resolve(f"{front.host}/a/b:v1", settings=settings)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
