"""Who the provisioner is to Azure, and where it asks: the real credentials and clients against scripted endpoints."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from foreign_azure import foreign_azure

from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.cloud.failure import CloudError
from gpu_provisioner.settings import AzureSettings
from kaito_local.arm.nodes import NoNodes
from kaito_local.arm.server import ArmStandIn, serve
from kubecore.testing.asserts import eventually

ROLE = Path(__file__).parents[3] / "docs" / "azure-role.json"


def settings(arm: ArmStandIn, **changes: str) -> AzureSettings:
    """As the stand-in's cluster; without a token file, so that only the credential under test can succeed."""
    return AzureSettings(**arm.settings() | changes)


@asynccontextmanager
async def recorded(answer: bytes) -> AsyncIterator[tuple[int, list[str]]]:
    """A server on a port that answers every connection alike, and the request lines that came."""
    lines: list[str] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if line := (await reader.readline()).decode().strip():  # none comes from a client that gave up
            lines.append(line)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lines


@asynccontextmanager
async def instance_metadata(token: str) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """The metadata service of a virtual machine, as far as tokens go, and what it was asked."""
    asked: list[dict[str, str]] = []

    async def give(request: web.Request) -> web.Response:
        asked.append({**request.query, "header": request.headers.get("Metadata", "")})
        said = {
            "access_token": token,
            "expires_in": "3600",
            "token_type": "Bearer",
            "resource": request.query["resource"],
        }
        return web.json_response(said)

    app = web.Application()
    app.add_routes([web.get("/metadata/identity/oauth2/token", give)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


async def test_a_service_principal(tmp_path: Path) -> None:
    async with serve(tmp_path, NoNodes()) as arm:
        secret = settings(arm, credential="client-secret", client_secret="s")
        async with connect(secret) as cloud:
            assert await cloud.list() == []
        assert [c.body for c in arm.wire.journal if c.route == "token"] == ["client_credentials"]


async def test_a_managed_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(tmp_path, NoNodes()) as arm, instance_metadata("from-imds") as (address, asked):
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", address)
        arm.wire.tokens.add("from-imds")
        async with connect(settings(arm, credential="managed-identity")) as cloud:
            assert await cloud.list() == []
        (question,) = asked
        assert question["client_id"] == "client"
        assert question["header"] == "true"
        assert not [c for c in arm.wire.journal if c.route == "token"]


@pytest.mark.parametrize(
    ("cloud", "login", "management"),
    [
        ("AZURE_PUBLIC_CLOUD", "login.microsoftonline.com", "management.azure.com"),
        ("AZURE_US_GOVERNMENT", "login.microsoftonline.us", "management.usgovcloudapi.net"),
        ("AZURE_CHINA_CLOUD", "login.chinacloudapi.cn", "management.chinacloudapi.cn"),
    ],
)
async def test_each_cloud_has_its_own_addresses_and_a_proxy_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cloud: str, login: str, management: str
) -> None:
    """The proxy says no to everything; what it was asked for tells where the token and the pools would have come from."""
    async with serve(tmp_path, NoNodes()) as arm, recorded(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (port, lines):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "localhost")
        there = settings(arm, credential="client-secret", client_secret="s", cloud=cloud, endpoint="")
        async with connect(there) as pools:
            with pytest.raises(CloudError, match="cannot be reached"):
                await pools.list()
        assert {line.split()[1] for line in lines} == {f"{management}:443"}
        lines.clear()
        async with connect(msgspec.structs.replace(there, authority="")) as pools, asyncio.TaskGroup() as group:
            asking = group.create_task(pools.list())
            await eventually(lambda: lines, timeout=30)
            asking.cancel()  # the SDK would ask some more times
        assert {line.split()[1] for line in lines} == {f"{login}:443"}


VERBS = {"GET": "read", "PUT": "write", "DELETE": "delete"}


def action(method: str, path: str) -> str:
    """The Azure permission that a request needs: the types of its path, and the verb."""
    parts = path.split("/providers/")[1].split("/")
    types = [parts[0], *parts[1::2]]  # namespace/type/name/type/name...
    return "/".join(types) + ("/action" if method == "POST" else f"/{VERBS[method]}")


async def test_the_role_in_the_docs_allows_what_is_called_and_nothing_else(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    async def absent(request: web.Request) -> web.Response:
        asked.append((request.method, request.path))
        return web.json_response({"code": "NotFound", "message": "there is none"}, status=404)

    async with foreign_azure(tmp_path, absent) as there, connect(there) as cloud:
        assert await cloud.get("p") is None
        assert await cloud.machines("p") == frozenset()
        assert not await cloud.has_machine("p", "m")
        for call in (
            cloud.list(),
            cloud.put("p", {"properties": {}}, replaces=None),
            cloud.delete("p"),
            cloud.delete_machines("p", ("m",)),
        ):
            with pytest.raises(CloudError):
                await call
    role = json.loads(ROLE.read_text())
    assert {action(*each) for each in asked} == set(role["Actions"])
    assert role["NotActions"] == []
