"""A proxy that answers 200 in Azure's place: something to try again, not the end of the process."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gpu_provisioner.cloud.azure import connect
from gpu_provisioner.cloud.failure import CloudError, FailureClass
from gpu_provisioner.settings import AzureSettings
from kaito_local.arm.server import write_certificate


@asynccontextmanager
async def between(folder: Path, body: str, content_type: str) -> AsyncIterator[AzureSettings]:
    """A token service, and a proxy that answers all else alike."""

    async def token(request: web.Request) -> web.Response:
        return web.json_response({"token_type": "Bearer", "expires_in": 3600, "access_token": "x"})

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=body, content_type=content_type)

    certificate = write_certificate(folder, ("127.0.0.1",))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await asyncio.to_thread(tls.load_cert_chain, certificate, folder / "arm.key")
    app = web.Application()
    app.add_routes([web.post("/{tenant}/oauth2/v2.0/token", token), web.route("*", "/{rest:.*}", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        url = f"https://localhost:{runner.addresses[0][1]}"
        yield AzureSettings(
            subscription_id="s",
            resource_group="g",
            cluster_name="c",
            tenant_id="t",
            client_id="client",
            client_secret="s",
            credential="client-secret",
            endpoint=url,
            authority=url,
            ca_file=str(certificate),
        )
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<html>Please log in</html>", "text/html"),
        ("<html>Please log in</html>", "application/json"),
        ("", "application/json"),
        ("[1]", "application/json"),
    ],
)
async def test_an_answer_that_is_not_azures_is_tried_again(tmp_path: Path, body: str, content_type: str) -> None:
    async with between(tmp_path, body, content_type) as settings, connect(settings) as cloud:
        with pytest.raises(CloudError, match="tried again") as raised:
            await cloud.list()
        assert raised.value.failure.failure is FailureClass.SERVER
        assert not raised.value.failure.permanent


async def test_a_pool_that_something_else_than_azure_shows_is_asked_for_again(tmp_path: Path) -> None:
    async with between(tmp_path, "<html>Please log in</html>", "text/html") as settings, connect(settings) as cloud:
        with pytest.raises(CloudError, match="a proxy in between") as raised:
            await cloud.get("p")
        assert raised.value.failure.failure is FailureClass.SERVER
