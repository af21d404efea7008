"""Encrypted connections, with an authority of the test's own."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from kaito_oci import RegistrySettings, errors, pull, resolve
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, ScriptedServer, scripted_server


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


async def test_an_unknown_authority_is_refused_without_retries(encrypted: ScriptedServer) -> None:
    started = time.monotonic()
    with pytest.raises(errors.TlsFailed, match="CA bundle"):
        await resolve(f"{encrypted.host}/a/b:v1")
    assert time.monotonic() - started < 2
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
    script.overrides.append(lambda request: Reply(body=[b"w", 30.0], length=100) if "/blobs/" in request.path else None)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await pull(f"{encrypted.host}/a/b:v1", tmp_path / "out", settings=RegistrySettings(ca_bundle=bundle))
    assert time.monotonic() - started < 5
