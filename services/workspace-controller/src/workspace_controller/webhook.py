"""Serves the validating admission webhook over TLS. Optional: the controller says the same in conditions, only later.

Runs in every replica, leader or not. Certificates are read again when their files change, at the next handshake.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from workspace_controller.admission import Review, answer
from workspace_controller.catalog import Catalog
from workspace_controller.settings import Settings

logger = logging.getLogger(__name__)

PATH: Final = "/validate/workspace.kaito.sh"
_MAX_BODY: Final = 8 * 1024 * 1024
"""Two objects of at most 1.5 MiB each, and their frame."""


class Certificates:
    """The server's TLS context, renewed when the files of `folder` (tls.crt, tls.key) change."""

    def __init__(self, folder: Path) -> None:
        self._files = (folder / "tls.crt", folder / "tls.key")
        self._stamp: tuple[int, ...] = ()
        self._current = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def context(self) -> ssl.SSLContext:
        """Return the context to listen with. Raises OSError or ssl.SSLError where the files cannot be used."""
        self._renew()
        self._current.sni_callback = self._on_handshake
        return self._current

    def _on_handshake(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext) -> None:
        try:
            self._renew()
        except (OSError, ssl.SSLError) as error:
            # The old certificate may still be good; a half-written new one is read again at the next handshake.
            logger.warning("certificate cannot be read", extra={"reason": str(error)})
        connection.context = self._current

    def _renew(self) -> None:
        stamp = tuple(file.stat().st_mtime_ns for file in self._files)
        if stamp == self._stamp:
            return
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.load_cert_chain(*self._files)
        self._current, self._stamp = fresh, stamp


class Webhook:
    """The HTTP side: reads a review, writes its answer."""

    def __init__(self, catalog: Catalog, settings: Settings, certificates: Path, port: int) -> None:
        self._catalog = catalog
        self._settings = settings
        self._certificates = certificates
        self._port = port
        self._decode = msgspec.json.Decoder(Review).decode

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError where the port or the certificates cannot be used."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes([web.post(PATH, self.review)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            context = Certificates(self._certificates).context()
            await web.TCPSite(runner, port=self._port, ssl_context=context).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def review(self, request: web.Request) -> web.Response:
        """Answer one AdmissionReview; one that cannot be read is refused as a bad request (failurePolicy decides)."""
        try:
            review = self._decode(await request.read())
        except msgspec.DecodeError as error:
            logger.warning("admission review cannot be read", extra={"reason": str(error)})
            return web.Response(status=400, text=f"not a review of a Workspace: {error}")
        body = msgspec.json.encode(answer(review, self._catalog, self._settings))
        return web.Response(body=body, content_type="application/json")
