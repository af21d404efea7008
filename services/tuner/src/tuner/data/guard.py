"""The connections that data may come over: public addresses only, but for what the operator allows.

The addresses are judged by the resolver of the connection itself, so that what was checked is what is connected to; a name
that changes its address between check and use gains nothing.
"""

from __future__ import annotations

import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from tuner.data import location
from tuner.data.location import Location, LocationError, Policy


class GuardedResolver(AbstractResolver):
    """Resolves names and withholds every address that the policy does not let through."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the usable addresses. Raises LocationError when all of them are withheld."""
        found = await self._resolver.resolve(host, port, family)
        if location.allowed(host, port, self._policy):
            return found
        usable = [entry for entry in found if location.public(entry["host"])]
        if found and not usable:
            raise LocationError(_private(host, port))
        return usable

    async def close(self) -> None:
        """Release what the resolver holds."""
        await self._resolver.close()


def session(policy: Policy, *, connect_seconds: float, silence_seconds: float) -> aiohttp.ClientSession:
    """Make the session for downloads: no proxies from the environment, no cookies, no compression on the way.

    What a host compresses all the same is kept as it comes (gzip is seen by the content): length, ETag, ranges and a pin are
    those of the bytes on the way.
    """
    timeout = aiohttp.ClientTimeout(
        total=None,
        sock_connect=connect_seconds,
        sock_read=silence_seconds,
        connect=connect_seconds,
    )
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=GuardedResolver(policy), limit=4, use_dns_cache=False),
        timeout=timeout,
        trust_env=False,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "kaito-tuner"},
    )


def check_literal(where: Location, policy: Policy) -> None:
    """Judge an address that needs no resolver. Raises LocationError."""
    address = location.literal(where.host)
    if address and not location.allowed(where.host, where.port, policy) and not location.public(address):
        raise LocationError(_private(where.host, where.port))


def refusal(error: BaseException) -> LocationError | None:
    """The refusal inside what aiohttp wrapped around it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LocationError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _private(host: str, port: int) -> str:
    return (
        f"{host}:{port} is not an address of the public internet, and data is fetched from nowhere else; "
        "an operator may allow exactly this host and port"
    )
