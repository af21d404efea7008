"""A token service, and whatever a test wants in Azure's place, over TLS; for the real SDK with a client secret."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from gpu_provisioner.settings import AzureSettings
from kaito_local.arm.server import write_certificate


@asynccontextmanager
async def foreign_azure(
    folder: Path, answer: Callable[[web.Request], Awaitable[web.Response]]
) -> AsyncIterator[AzureSettings]:
    """`answer` is asked everything but tokens."""

    async def token(request: web.Request) -> web.Response:
        return web.json_response({"token_type": "Bearer", "expires_in": 3600, "access_token": "x"})

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
