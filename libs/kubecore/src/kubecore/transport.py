"""HTTP to one apiserver: one session, one deadline for everything, credentials that are read again, throttling obeyed.

Deals in bytes; the client above knows kinds. Errors leave here as `kubecore.errors` only. A 401 makes the credentials be
read once more; 429 and 5xx with Retry-After are waited for within the caller's deadline; nothing else is repeated here,
because a reconcile has its own backoff and a reflector too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
from yarl import URL

from kubecore import metrics
from kubecore.config import ClusterConfig
from kubecore.errors import ConfigError, KubeError, TransportError, error_from_response

logger = logging.getLogger(__name__)

TOKEN_REFRESH_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 60.0  # below the apiserver's 90 s idle limit, so that it never closes under a request
MAX_RETRIES: Final = 10
JSON: Final = "application/json"


class Request(NamedTuple):
    """One exchange. `path` is encoded and has its query; `verb` and `resource` only label the metrics."""

    method: str
    path: str
    verb: str
    resource: str
    body: bytes | None = None
    content_type: str = JSON

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Stream:
    """The body of an answer that goes on until the server ends it."""

    def __init__(self, response: aiohttp.ClientResponse, request: Request, silence: float) -> None:
        self._response = response
        self._request = request
        self._silence = silence

    async def read(self) -> bytes:
        """Return what has come, b"" at the end. Raises TransportError when the stream breaks or falls silent."""
        try:
            async with asyncio.timeout(self._silence):
                return await self._response.content.readany()
        except TimeoutError as error:
            raise TransportError(f"{self._request}: silent for {self._silence:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{self._request}: stream broke: {type(error).__name__}: {error}") from error


class Transport:
    """Async context manager around one aiohttp session. Safe to share by all tasks of a loop."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        user_agent: str,
        field_manager: str | None = None,
        max_connections: int = 100,
    ) -> None:
        """Prepare; nothing is read or opened yet.

        `user_agent` goes with every request, `field_manager` with every write that names none; `max_connections` counts
        watches too.
        """
        self.field_manager = field_manager
        self._credentials = config.credentials()
        self._user_agent = user_agent
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._options: dict[str, Any] = {}
        self._base = ""
        self._auth_lock = asyncio.Lock()
        self._auth_generation = 0
        self._auth_due = float("inf")
        self._meters: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    async def __aenter__(self) -> Self:
        """Read the configuration and open the session; connects to nothing yet. Raises ConfigError."""
        connection = await self._credentials.open()
        self._base = connection.server
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            keepalive_timeout=IDLE_SECONDS,
            ssl=connection.tls,
            socket_factory=_keepalive_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # compressed lists cost both sides more processor time than a cluster's network costs
            headers={"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": self._user_agent},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        self._options = {
            "allow_redirects": False,
            "proxy": connection.proxy,
            "server_hostname": connection.server_hostname,
        }
        self._options = {name: value for name, value in self._options.items() if value is not None}
        self._set_authorization(connection.authorization)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def server(self) -> str:
        """URL of the apiserver."""
        return self._base

    @property
    def authorization(self) -> str | None:
        """The Authorization header in use; None for a client certificate. Not for logs."""
        return self._session.headers.get("Authorization") if self._session is not None else None

    async def request(self, request: Request, *, timeout: float = 30, retry: bool = True) -> bytes:
        """Send and return the body of a successful JSON answer.

        `timeout` in seconds covers connection, retries and body; `retry=False` hands a 429 to the caller at once.
        Raises ApiError and its kinds, and TransportError.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        retries = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        return await self._exchange(request)
                    except KubeError as error:
                        wait = _retry_after(error) if retry and retries < MAX_RETRIES else None
                        if wait is None or asyncio.get_running_loop().time() + wait >= deadline:
                            raise
                    retries += 1
                    metrics.REQUEST_RETRIES.labels(request.verb).inc()
                    await asyncio.sleep(wait)
        except TimeoutError as error:
            raise TransportError(f"{request}: no answer within {timeout:g} s") from error

    @asynccontextmanager
    async def stream(self, request: Request, *, open_timeout: float, silence: float) -> AsyncIterator[Stream]:
        """Open a stream and hand it out to be read.

        `open_timeout` seconds may pass until the answer starts, `silence` seconds between two chunks. Raises ApiError and
        its kinds, TransportError.
        """
        try:
            async with asyncio.timeout(open_timeout):
                response = await self._open(request)
        except TimeoutError as error:
            raise TransportError(f"{request}: no answer within {open_timeout:g} s") from error
        try:
            yield Stream(response, request, silence)
        finally:
            response.close()

    async def _exchange(self, request: Request) -> bytes:
        response = await self._open(request)
        try:
            return await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{request}: answer broke off: {error}") from error
        finally:
            response.release()

    async def _open(self, request: Request) -> aiohttp.ClientResponse:
        """Return a response below 300 with JSON in it; the credentials are renewed once after a 401."""
        if time.monotonic() >= self._auth_due:
            await self._authorize(self._auth_generation, renew=False)
        generation = self._auth_generation
        response = await self._send(request)
        if response.status == 401:
            response.release()
            await self._authorize(generation, renew=True)
            response = await self._send(request)
        if response.status < 300:
            if response.content_type == JSON:
                return response
            response.close()
            raise TransportError(f"{request}: expected JSON, got {response.content_type}: not the apiserver's answer")
        try:
            text = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{request}: {response.status}, and the answer broke off: {error}") from error
        finally:
            response.release()
        if response.status < 400:
            raise TransportError(f"{request}: redirected with {response.status}, which an apiserver never does")
        raise error_from_response(response.status, text, response.headers.get("Retry-After"))

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        if self._session is None:
            raise TransportError("the transport is not open: use it in `async with`")
        started = time.perf_counter()
        try:
            response = await self._session.request(
                request.method,
                URL(self._base + request.path, encoded=True),
                data=request.body,
                headers=_CONTENT_TYPES[request.content_type] if request.body is not None else None,
                **self._options,
            )
        except (aiohttp.ClientError, OSError) as error:
            self._meter(request, 0)[0].inc()
            raise TransportError(f"{request}: {type(error).__name__}: {error}") from error
        count, seconds = self._meter(request, response.status)
        count.inc()
        if request.verb != "watch":
            seconds.observe(time.perf_counter() - started)
        return response

    def _meter(self, request: Request, code: int) -> tuple[Any, Any]:
        verb, resource = request.verb, request.resource
        key = (verb, resource, code)
        found = self._meters.get(key)
        if found is None:
            found = (metrics.REQUESTS.labels(verb, resource, str(code)), metrics.REQUEST_SECONDS.labels(verb, resource))
            self._meters[key] = found
        return found

    async def _authorize(self, generation: int, renew: bool) -> None:
        """Read the credentials again; concurrent callers share one reading.

        A failure keeps the old ones: the kubelet may be replacing the file right now, and the next 401 asks again.
        """
        async with self._auth_lock:
            if self._auth_generation != generation:
                return
            try:
                self._set_authorization(await self._credentials.authorization(renew))
            except ConfigError as error:
                logger.warning("credentials could not be read again", extra={"reason": str(error)})
                self._auth_due = time.monotonic() + TOKEN_REFRESH_SECONDS
                self._auth_generation += 1

    def _set_authorization(self, value: str | None) -> None:
        if self._session is not None and value is not None:
            self._session.headers["Authorization"] = value
        self._auth_due = time.monotonic() + TOKEN_REFRESH_SECONDS if self._credentials.expires else float("inf")
        self._auth_generation += 1


_CONTENT_TYPES: Final = {
    kind: {"Content-Type": kind}
    for kind in (JSON, "application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml")
}

_TCP_OPTIONS: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000))


def _retry_after(error: KubeError) -> float | None:
    """Seconds to wait where the server asks to come again, with some jitter; None where the error is the caller's."""
    wait: float | None = getattr(error, "retry_after", None)
    status: int = getattr(error, "status", 0)
    if wait is None or not (status == 429 or status >= 500):
        return None
    return wait * (1.0 + 0.1 * random.random())


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket whose dead peer is noticed in about a minute, also while nothing is sent (a silent watch)."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_OPTIONS:
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
