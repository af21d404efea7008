"""oras-py's registry client with the faults of its request path closed.

What differs from `oras.provider.Registry`: deadlines; retries of 429 and 5xx with Retry-After and jitter; errors as classes;
a refused token is replaced; redirects are followed by us, without credentials and never to plain text; manifests are verified
against their digest and bounded; upload locations stay on the registry. Blobs are in `download` and `upload`.

The methods keep oras-py's names, so that each can go upstream by itself.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import oras.container
import requests
import urllib3.exceptions
from oras.provider import Registry

from kaito_oci import digest as digests
from kaito_oci import media_types, refusal, retry, tls
from kaito_oci.auth import RepositoryAuth
from kaito_oci.body import Body
from kaito_oci.credentials import Credential
from kaito_oci.errors import DigestMismatch, InvalidManifest, NotFound, TooLarge, Unavailable, UnsafeLocation
from kaito_oci.limits import Limits
from kaito_oci.operation import CURRENT, deadline
from kaito_oci.reference import DIGEST, Reference
from kaito_oci.settings import RegistrySettings
from kaito_oci.transport import prepare

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class HardenedRegistry(Registry):  # type: ignore[misc] # oras-py carries no types
    """A client for one repository of one registry. Its methods block: call them through `operation.in_thread`."""

    def __init__(self, reference: Reference, credential: Credential | None, settings: RegistrySettings) -> None:
        host = reference.api_host
        scheme = settings.scheme(host)
        super().__init__(hostname=host, insecure=scheme == "http")
        prepare(self.session, settings.ca_bundle)
        self.reference = reference
        self.settings = settings
        self.container = oras.container.Container(f"{reference.repository}:{reference.tag or 'latest'}", registry=host)
        self.auth = RepositoryAuth(host, reference.repository, credential, settings)
        self.auth.session = self.session
        self.auth._tls_verify = True

    def url(self, path: str) -> str:
        """The URL of something under this repository, like `manifests/latest`."""
        return f"{self.prefix}://{self.hostname}/v2/{self.reference.repository}/{path}"

    def do_request(  # noqa: PLR0917 - oras-py's signature
        self,
        url: str,
        method: str = "GET",
        data: Any = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        stream: bool = False,
        *,
        actions: str = "pull",
    ) -> requests.Response:
        """One request with login, redirects and retries; the response of any status that trying again cannot change.

        A body that is a stream is sent once: only its owner knows how to go on. Raises Unavailable, TlsFailed.
        """
        del stream  # every response is streamed: reading it whole is what makes memory unbounded
        patience = self.settings.patience
        once = data is not None and not isinstance(data, bytes)
        attempt = 0
        failure: Exception | None
        while True:
            delay = None
            try:
                response = self._authenticated(method, url, headers or {}, actions, data=data, json=json)
            except Unavailable as error:  # of the token endpoint
                problem, failure = str(error), error
            except NETWORK_ERRORS as error:
                CURRENT.get().check()
                problem, failure = f"{self.hostname} does not answer ({_cause(error)})", error
            else:
                if response.status_code not in retry.RETRYABLE_STATUS:
                    return response
                problem, failure = f"{self.hostname} answers {refusal.describe(response)}", None
                delay = retry.retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
                response.close()
            attempt += 1
            if once or attempt >= patience.attempts:
                tries = f" after {attempt} tries" if attempt > 1 else ""
                raise Unavailable(f"{problem}{tries}") from failure
            CURRENT.get().wait(retry.pause(patience, attempt - 1, random.random(), delay))

    def _authenticated(
        self, method: str, url: str, headers: dict[str, str], actions: str, **request: Any
    ) -> requests.Response:
        login = self.auth.header(actions)
        response = self._followed(method, url, {**headers, **login}, **request)
        if response.status_code != 401 or not self._is_ours(response.url):
            return response
        body: Any = request.get("data")
        if isinstance(body, Body):
            body.seek(0)
        headers, changed = self.auth.authenticate_request(response, headers, refresh=bool(login), actions=actions)
        if not changed:
            return response
        response.close()
        return self._followed(method, url, headers, **request)

    def _followed(self, method: str, url: str, headers: dict[str, str], **request: Any) -> requests.Response:
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._exchange(method, url, headers, **request)
            if method not in {"GET", "HEAD"} or response.status_code not in _REDIRECTS:
                return response
            url, headers = self._next_hop(response, headers)
            response.close()
        raise UnsafeLocation(f"{self.hostname} redirects more than {_MAX_REDIRECTS} times")

    def _exchange(self, method: str, url: str, headers: dict[str, str], **request: Any) -> requests.Response:
        """One request and the head of its response, within the deadline."""
        patience, body = self.settings.patience, request.get("data")
        stores = method in {"PUT", "PATCH"}
        most = patience.commit if stores else patience.head
        with deadline(CURRENT.get(), most) as limit:
            if isinstance(body, Body):
                body.on_read = limit.feed
            try:
                response: requests.Response = self.session.request(
                    method,
                    url,
                    headers=headers,
                    timeout=(patience.connect, patience.commit if stores else patience.stall),
                    verify=self._tls_verify,
                    allow_redirects=False,
                    stream=True,
                    **request,
                )
            except NETWORK_ERRORS as error:
                if limit.expired:
                    raise _NoAnswerError(f"no answer within {most:g} s") from error
                if refused := tls.refusal(urlsplit(url).netloc, error, self.settings.ca_bundle):
                    raise refused from error
                raise
        return response

    def _next_hop(self, response: requests.Response, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
        target = urljoin(response.url, response.headers.get("Location", ""))
        parts = urlsplit(target)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
            raise UnsafeLocation(f"{self.hostname} redirects to something that is not a plain http(s) URL")
        if parts.scheme == "http" and parts.netloc not in self.settings.plain_http_hosts:
            raise UnsafeLocation(f"{self.hostname} redirects to {parts.netloc} without encryption")
        if not self._is_ours(target):
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        return target, headers

    def _is_ours(self, url: str) -> bool:
        parts = urlsplit(url)
        return (parts.scheme, parts.netloc) == (self.prefix, self.hostname)

    def _get_location(self, r: requests.Response, container: Any = None) -> str:
        """oras-py's hook: where an upload goes on. Raises UnsafeLocation where that is not this registry."""
        del container
        location = r.headers.get("Location", "")
        if not location:
            raise Unavailable(f"{self.hostname} opened an upload without saying where")
        target = urlsplit(urljoin(r.url, location))
        # Registries behind a proxy that ends TLS say http://; the host is what counts, the scheme stays ours.
        if target.netloc.removesuffix(":443") != str(self.hostname).removesuffix(":443"):
            raise UnsafeLocation(f"{self.hostname} wants the upload sent to {target.netloc or 'nowhere'}")
        return target._replace(scheme=self.prefix, netloc=str(self.hostname)).geturl()

    def head_manifest(self, target: str) -> str:
        """The digest that a tag (or digest) has now, or "" where the registry does not say. Raises NotFound and others."""
        response = self.do_request(self.url(f"manifests/{target}"), "HEAD", headers={"Accept": media_types.ACCEPT})
        response.close()
        if response.status_code != 200:
            raise refusal.error(response, f"{self.reference.name}, manifest {target}")
        stated = response.headers.get("Docker-Content-Digest", "")
        return stated if DIGEST.fullmatch(stated) else ""

    def read_manifest(self, target: str, limits: Limits, size: int | None = None) -> tuple[bytes, str, str]:
        """Bytes, Content-Type and verified digest of a manifest. Raises DigestMismatch, TooLarge, NotFound and others."""
        what = f"{self.reference.name}, manifest {target}"
        with self.do_request(
            self.url(f"manifests/{target}"), headers={"Accept": media_types.ACCEPT}, stream=True
        ) as response:
            if response.status_code != 200:
                raise refusal.error(response, what)
            body = self._bounded(response, limits.max_manifest_bytes, what)
        stated = response.headers.get("Docker-Content-Digest", "")
        wanted = target if DIGEST.fullmatch(target) else stated if DIGEST.fullmatch(stated) else ""
        state = digests.hasher(wanted or digests.EMPTY_SHA256)
        state.update(body)
        found = digests.of(state)
        if wanted and found != wanted:
            raise DigestMismatch(f"{what}: the registry sent bytes with another digest ({found})")
        if size is not None and len(body) != size:
            raise DigestMismatch(f"{what}: {len(body)} bytes where the index says {size}")
        return body, response.headers.get("Content-Type", ""), found

    def get_manifest(
        self, container: Any, allowed_media_type: Any = None, validation_schema: Any = None
    ) -> dict[str, Any]:
        """oras-py's method, verified: the manifest as a dict."""
        del container, allowed_media_type, validation_schema
        body, _, _ = self.read_manifest(self.reference.target, Limits())
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InvalidManifest(f"{self.reference}: not a JSON object") from error

    def _bounded(self, response: requests.Response, most: int, what: str) -> bytes:
        patience = self.settings.patience
        body = bytearray()
        started = time.monotonic()
        try:
            while chunk := response.raw.read1(64 * 1024, decode_content=False):
                body += chunk
                if len(body) > most:
                    raise TooLarge(f"{what}: larger than {most} bytes")
                if time.monotonic() - started > patience.head:
                    raise Unavailable(f"{what}: {self.hostname} takes longer than {patience.head:g} s to send it")
        except NETWORK_ERRORS as error:
            CURRENT.get().check()
            raise Unavailable(f"{what}: the connection broke ({_cause(error)})") from error
        return bytes(body)


def blob_missing(reference: Reference, digest: str) -> NotFound:
    """The error for a blob that a manifest names and the registry does not have."""
    return NotFound(f"{reference.name}: the registry no longer has blob {digest}, which the manifest names")


class _NoAnswerError(OSError):
    """We hung up."""


def _cause(error: BaseException) -> str:
    """The innermost exception in a few words: requests wraps three deep and repeats URLs, which may carry tokens."""
    inner: BaseException = error
    while not isinstance(inner, _NoAnswerError) and (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    if isinstance(inner, _NoAnswerError):
        return str(inner)
    detail = inner.strerror if isinstance(inner, OSError) and inner.strerror else ""
    return f"{type(inner).__name__}: {detail}" if detail else type(inner).__name__
