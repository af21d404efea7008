"""uvicorn's HTTP/1.1, for clients also that offer to go on in HTTP/2.

Java's own client, and the frameworks that use it, ask for `Upgrade: h2c` with every request without TLS. A server may ignore
that (RFC 9110, 7.8). uvicorn means to, but its parser stops at the end of such a head, and the request's body is lost.
"""

from __future__ import annotations

import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_END_OF_HEAD: Final = b"\r\n\r\n"
_OFFER: Final = re.compile(rb"(?<=\r\n)upgrade(?=:[ \t]*h2c[ \t]*\r\n)", re.IGNORECASE)
_IGNORED: Final = b"x-offer"
"""As long as the name that it replaces: where a piece is no head after all, nothing moves."""


def without_offer(piece: bytes) -> bytes:
    """Return the first piece of a request with its offer of HTTP/2 under a name that nobody looks at. Pure."""
    head, end, rest = piece.partition(_END_OF_HEAD)
    if not end:
        return piece  # a head in several pieces: no client that makes this offer sends one
    return _OFFER.sub(_IGNORED, head + b"\r\n", count=1)[:-2] + end + rest


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.cycle is None or self.cycle.response_complete:
            data = without_offer(data)
        super().data_received(data)
