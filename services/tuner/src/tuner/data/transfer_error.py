"""What broke a transfer, in words for log and status. Pure.

aiohttp's own words name the whole URL, of a redirect's target too, and quote lines of the answer that may hold one: a query can
be a signature. So only what cannot hold any of that is told.
"""

from __future__ import annotations

import aiohttp


class InterruptedTransferError(Exception):
    """The transfer broke off or the server is busy: try again from where it stopped. `str()` is ours, without a URL."""


def words(error: Exception) -> str:
    """Say what went wrong."""
    match error:
        case InterruptedTransferError() | aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return str(error)  # host, port and the system's word
        case TimeoutError():
            return "no answer in time"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection"
        case aiohttp.ClientPayloadError():
            return "the connection ended before the content did"
        case aiohttp.ClientResponseError():
            return f"the answer is not valid HTTP ({error.status})"
        case aiohttp.ClientOSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__
