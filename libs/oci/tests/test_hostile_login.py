"""Registries that want credentials for somebody else, forget tokens, and lead uploads away."""

import base64
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from kaito_oci import (
    Blob,
    BytesBlob,
    DockerConfigs,
    OciError,
    Patience,
    RegistrySettings,
    check_push,
    errors,
    media_types,
    pull,
    push,
    resolve,
)
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server

BASIC = "Basic " + base64.b64encode(b"me:secret").decode()


def login(host: str, **entry: str) -> DockerConfigs:
    return DockerConfigs(json.dumps({"auths": {host: entry or {"auth": BASIC[6:]}}}).encode())


class TokenService:
    """Hands out tokens t1, t2, ...; the registry behind accepts only the newest."""

    def __init__(self) -> None:
        self.issued = 0
        self.status = 200
        self.answer: bytes | None = None

    def __call__(self, request: Request) -> Reply:
        self.issued += 1
        body = json.dumps({"token": f"t{self.issued}", "expires_in": 300}).encode()
        return Reply(self.status, body=self.answer or body)

    def guard(self, realm: str) -> Callable[[Request], Reply | None]:
        def answer(request: Request) -> Reply | None:
            if self.issued and request.headers.get("authorization") == f"Bearer t{self.issued}":
                return None
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s",scope="repository:other/x:*"'})

        return answer


@pytest.fixture
def tokens() -> TokenService:
    return TokenService()


@pytest.fixture
async def token_server(tokens: TokenService) -> AsyncIterator[ScriptedServer]:
    """Under the registry's own name, on another port."""
    async with scripted_server(tokens) as running:
        yield running


async def test_a_token_is_fetched_for_this_repository_only_and_kept(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, token_server: ScriptedServer, tmp_path: Path
) -> None:
    script.add_artifact({"a": b"1", "b": b"2"})
    script.overrides.append(tokens.guard(f"http://{token_server.host}/token"))
    hosts = [server.host, token_server.host]
    await pull(f"{server.host}/me/model:v1", tmp_path / "out", auth=login(server.host), plain_http_hosts=hosts)
    [asked] = token_server.requests
    assert asked.query == {"service": "s", "scope": "repository:me/model:pull"}
    assert asked.headers["authorization"] == BASIC
    assert not any(request.headers.get("authorization") == BASIC for request in server.requests)


async def test_a_token_that_expires_during_a_pull_is_replaced(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, token_server: ScriptedServer, tmp_path: Path
) -> None:
    script.add_artifact({"a": b"1"})
    realm = f"http://{token_server.host}/token"
    script.overrides.append(tokens.guard(realm))

    def revoke_before_blobs(request: Request) -> Reply | None:
        if "/blobs/" in request.path and request.headers.get("authorization") == "Bearer t1":
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",error="invalid_token"'})
        return None

    script.overrides.append(revoke_before_blobs)
    hosts = [server.host, token_server.host]
    await pull(f"{server.host}/me/model:v1", tmp_path / "out", auth=login(server.host), plain_http_hosts=hosts)
    assert tokens.issued == 2


async def test_an_identity_token_is_exchanged_and_a_registry_token_is_used_as_it_is(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, token_server: ScriptedServer
) -> None:
    script.add_artifact({"a": b"1"})
    script.overrides.append(tokens.guard(f"http://{token_server.host}/token"))
    hosts, name = [server.host, token_server.host], f"{server.host}/me/model:v1"
    await resolve(name, auth=login(server.host, identitytoken="refresh-me"), plain_http_hosts=hosts)
    [asked] = token_server.requests
    assert asked.method == "POST"
    assert b"grant_type=refresh_token" in asked.body
    assert b"refresh_token=refresh-me" in asked.body
    await resolve(name, auth=login(server.host, registrytoken="t1"), plain_http_hosts=hosts)
    assert len(token_server.requests) == 1


@pytest.mark.parametrize("secret", [{}, {"identitytoken": "refresh-me"}], ids=["password", "identity"])
async def test_a_realm_elsewhere_never_sees_the_credentials(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, secret: dict[str, str]
) -> None:
    script.add_artifact({"a": b"1"})
    async with scripted_server(tokens, name="localhost") as thief:
        script.overrides.append(tokens.guard(f"http://{thief.host}/token"))
        hosts, name = [server.host, thief.host], f"{server.host}/me/model:v1"
        with pytest.raises(errors.UntrustedRealm, match="another site"):
            await resolve(name, auth=login(server.host, **secret), plain_http_hosts=hosts)
        assert thief.requests == []
        trusting = RegistrySettings(plain_http_hosts=hosts, trusted_realms={thief.host})
        assert await resolve(name, auth=login(server.host), settings=trusting)


async def test_a_realm_without_encryption_is_refused(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, token_server: ScriptedServer
) -> None:
    script.overrides.append(tokens.guard(f"http://{token_server.host}/token"))
    with pytest.raises(errors.UntrustedRealm, match="not encrypted"):
        await resolve(f"{server.host}/me/model:v1", auth=login(server.host), plain_http_hosts=[server.host])
    assert token_server.requests == []


async def test_credentials_of_another_host_stay_home(script: ScriptedRegistry, server: ScriptedServer) -> None:
    script.overrides.append(lambda _: Reply(401, {"WWW-Authenticate": 'Basic realm="give it to me"'}))
    with pytest.raises(errors.Unauthorized, match="no credentials") as refused:
        await resolve(f"{server.host}/a/b:v1", auth=login("ghcr.io"), plain_http_hosts=[server.host])
    assert refused.value.by_registry
    assert not any("authorization" in request.headers for request in server.requests)


async def test_a_netrc_of_the_machine_plays_no_part(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ambient password ambient\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    script.add_artifact({"a": b"1"})
    await resolve(f"{server.host}/a/b:v1", plain_http_hosts=[server.host])
    assert not any("authorization" in request.headers for request in server.requests)


async def test_a_password_that_is_refused_is_not_sent_again(
    script: ScriptedRegistry, server: ScriptedServer, tmp_path: Path
) -> None:
    script.add_artifact({"a": b"1"})

    def revoked(request: Request) -> Reply | None:
        if request.headers.get("authorization") == BASIC and "/manifests/" in request.path:
            return None
        return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})

    script.overrides.append(revoked)
    with pytest.raises(errors.Unauthorized):
        await pull(f"{server.host}/a/b:v1", tmp_path / "out", auth=login(server.host), plain_http_hosts=[server.host])
    assert len(server.seen("GET", "/blobs/")) == 1


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"", errors.Unauthorized),
        (403, b"", errors.Denied),
        (503, b"", errors.Unavailable),
        (302, b"", errors.Unauthorized),
        (200, b"<html>", errors.Unauthorized),
        (200, b"{}", errors.Unauthorized),
    ],
)
async def test_token_services_that_fail(
    script: ScriptedRegistry,
    server: ScriptedServer,
    tokens: TokenService,
    token_server: ScriptedServer,
    status: int,
    body: bytes,
    error: type[OciError],
) -> None:
    tokens.status, tokens.answer = status, body
    settings = RegistrySettings(plain_http_hosts={server.host, token_server.host}, patience=Patience(backoff=0.01))
    script.overrides.append(tokens.guard(f"http://{token_server.host}/token"))
    with pytest.raises(error) as refused:
        await resolve(f"{server.host}/a/b:v1", auth=login(server.host), settings=settings)
    assert "secret" not in str(refused.value)


async def test_a_token_service_that_comes_back_is_asked_again(
    script: ScriptedRegistry, server: ScriptedServer, tokens: TokenService, token_server: ScriptedServer
) -> None:
    script.add_artifact({"a": b"1"})
    script.overrides.append(tokens.guard(f"http://{token_server.host}/token"))
    answers = iter([Reply(503), Reply(429)])
    token_server.handler = lambda request: next(answers, None) or tokens(request)
    hosts = [server.host, token_server.host]
    settings = RegistrySettings(plain_http_hosts=hosts, patience=Patience(backoff=0.01))
    assert await resolve(f"{server.host}/a/b:v1", auth=login(server.host), settings=settings)


CONTENT = os.urandom(50_000_000)


def artifact(content: bytes) -> tuple[list[Blob], bytes]:
    config: Blob = BytesBlob(b"{}", media_types.OCI_EMPTY)
    blob: Blob = BytesBlob(content, "application/octet-stream", {media_types.TITLE: "weights"})
    manifest = {"schemaVersion": 2, "config": config.descriptor, "layers": [blob.descriptor]}
    return [config, blob], msgspec.json.encode(manifest)


async def test_an_upload_that_is_led_away_is_not_followed(script: ScriptedRegistry, server: ScriptedServer) -> None:
    async with scripted_server(lambda _: Reply(201), name="localhost") as thief:
        script.overrides.append(
            lambda request: Reply(202, {"Location": f"http://{thief.host}/take"}) if request.method == "POST" else None
        )
        with pytest.raises(errors.UnsafeLocation):
            await check_push(f"{server.host}/a/b:v1", plain_http_hosts=[server.host, thief.host])
        assert thief.requests == []


async def test_an_upload_that_breaks_goes_on_in_chunks(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings
) -> None:
    blobs, manifest = artifact(CONTENT)
    answers = {"PUT": [Reply(502)], "PATCH": [None, Reply(503), None, Reply(500)]}

    def break_some(request: Request) -> Reply | None:
        queue = answers.get(request.method, [])
        large = len(request.body) > 10**6
        return queue.pop(0) if large and queue else None

    script.overrides.append(break_some)
    seen: list[int] = []
    result = await push(
        f"{server.host}/a/b:v1", blobs, manifest, settings=impatient, progress=lambda done, _: seen.append(done)
    )
    assert script.blobs[blobs[1].descriptor.digest] == CONTENT
    assert result.uploaded == len(CONTENT) + 2
    assert seen[-1] <= result.uploaded
    starts = [request.headers["content-range"].partition("-")[0] for request in server.seen("PATCH")]
    assert starts == ["0", "16777216", "16777216", "33554432", "33554432"]


async def test_a_proxy_that_caps_requests_gets_chunks(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings
) -> None:
    blobs, manifest = artifact(CONTENT)
    script.overrides.append(lambda request: Reply(413) if len(request.body) > 2 * 10**7 else None)
    await push(f"{server.host}/a/b:v1", blobs, manifest, settings=impatient)
    assert script.blobs[blobs[1].descriptor.digest] == CONTENT


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412])
async def test_a_tag_that_may_not_move(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings, status: int
) -> None:
    name = f"{server.host}/a/b:v1"
    first = await push(name, *artifact(b"first"), settings=impatient)
    script.overrides.append(
        lambda request: Reply(status) if request.method == "PUT" and "/manifests/" in request.path else None
    )
    with pytest.raises(errors.TagImmutable, match=first.digest):
        await push(name, *artifact(b"second"), settings=impatient)
    with pytest.raises(OciError) as refused:
        await push(f"{server.host}/a/b:new", *artifact(b"second"), settings=impatient)
    assert not isinstance(refused.value, errors.TagImmutable)


async def test_a_registry_that_stores_something_else_is_noticed(
    script: ScriptedRegistry, server: ScriptedServer, impatient: RegistrySettings
) -> None:
    script.overrides.append(
        lambda request: (
            Reply(201, {"Docker-Content-Digest": "sha256:" + "0" * 64})
            if request.method == "PUT" and "/manifests/" in request.path
            else None
        )
    )
    with pytest.raises(errors.DigestMismatch):
        await push(f"{server.host}/a/b:v1", *artifact(b"x"), settings=impatient)
