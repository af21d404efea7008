"""Logging in at one registry for one repository: oras-py's token backend with its faults closed.

What differs from `oras.auth.token.TokenAuth`: tokens are kept per scope with their lifetime and replaced when the registry
refuses them (oras-py sends the refused one again); the token endpoint is checked before it sees credentials; identity tokens
and ready registry tokens of docker's config work; nothing is followed to another host.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import msgspec
import oras.auth.utils
import requests
from oras.auth.token import TokenAuth

from kaito_oci import challenge, tls
from kaito_oci.credentials import Credential
from kaito_oci.errors import Denied, Unauthorized, Unavailable, UntrustedRealm
from kaito_oci.operation import CURRENT, deadline
from kaito_oci.retry import RETRYABLE_STATUS
from kaito_oci.settings import RegistrySettings

_MAX_TOKEN_BYTES = 1024 * 1024
_DEFAULT_LIFETIME = 60  # distribution's token specification: the default of expires_in
_CLIENT_ID = "kaito-oci"


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None
    expires_in: int | None = None


class _Token(msgspec.Struct, frozen=True):
    header: str
    expires: float


class RepositoryAuth(TokenAuth):  # type: ignore[misc] # oras-py carries no types
    """Answers the challenges of one registry. `credential` None means anonymous."""

    def __init__(self, host: str, repository: str, credential: Credential | None, settings: RegistrySettings) -> None:
        super().__init__()
        self._host = host
        self._repository = repository
        self._credential = credential
        self._settings = settings
        self._tokens: dict[str, _Token] = {}
        if credential and credential.basic:
            self._basic_auth = credential.basic.removeprefix("Basic ")

    def header(self, actions: str) -> dict[str, str]:
        """The Authorization header for a request that needs `actions` ("pull" or "pull,push"), if one is known and fresh."""
        if self._credential and self._credential.registry_token:
            return {"Authorization": f"Bearer {self._credential.registry_token}"}
        token = self._tokens.get(actions)
        if token and token.expires > time.monotonic():
            return {"Authorization": token.header}
        return {}

    def authenticate_request(
        self, original: requests.Response, headers: dict[str, str], refresh: bool = False, actions: str = "pull"
    ) -> tuple[dict[str, str], bool]:
        """oras-py's hook: the headers to send instead, and whether that can help. `refresh` says that a token was refused."""
        asked = challenge.parse(original.headers.get("WWW-Authenticate", ""))
        if asked is None or (self._credential and self._credential.registry_token):
            return headers, False
        if refresh and asked.scheme == "basic":
            return headers, False  # the password itself was refused; sending it again cannot help
        if asked.scheme == "basic":
            if self._credential is None or not self._credential.basic:
                return headers, False
            token = _Token(self._credential.basic, float("inf"))
        else:
            token = self._bearer(asked, actions)
        self._tokens[actions] = token
        return {**headers, "Authorization": token.header}, True

    def _bearer(self, asked: challenge.Challenge, actions: str) -> _Token:
        problem = challenge.realm_problem(
            asked.realm,
            self._host,
            plain_http_hosts=self._settings.plain_http_hosts,
            trusted_realms=self._settings.trusted_realms,
            with_credentials=self._credential is not None,
        )
        if problem:
            raise UntrustedRealm(f"{problem}; add it to the trusted realms if that is right")
        started = time.monotonic()
        answer = self.request_token(oras.auth.utils.authHeader(self._lookup(asked, actions)))
        value = answer.token or answer.access_token
        if not value:
            raise Unauthorized(f"the token endpoint of {self._host} answered without a token")
        lifetime = answer.expires_in or _DEFAULT_LIFETIME
        return _Token(f"Bearer {value}", started + lifetime * 0.9)

    def _lookup(self, asked: challenge.Challenge, actions: str) -> dict[str, str]:
        # The scope is ours to choose: a registry that asks for more, or for another repository, does not get it.
        scope = f"repository:{self._repository}:{actions}"
        return {"realm": asked.realm, "service": asked.service, "scope": scope}

    def request_token(self, h: Any) -> _TokenAnswer:
        """oras-py's hook: ask the (already checked) token endpoint."""
        query = {key: value for key, value in (("service", h.service), ("scope", h.scope)) if value}
        identity = self._credential.identity_token if self._credential else ""
        if identity:
            form = {**query, "grant_type": "refresh_token", "refresh_token": identity, "client_id": _CLIENT_ID}
            response = self._exchange("POST", h.realm, data=form)
        else:
            basic = self._credential.basic if self._credential else ""
            response = self._exchange("GET", h.realm, params=query, headers={"Authorization": basic} if basic else {})
        try:
            return msgspec.json.decode(response, type=_TokenAnswer)
        except msgspec.MsgspecError as error:
            raise Unauthorized(f"the token endpoint of {self._host} answered something that is not a token") from error

    def _exchange(self, method: str, url: str, **request: Any) -> bytes:
        patience = self._settings.patience
        timeout = (patience.connect, patience.stall)
        operation = CURRENT.get()
        try:
            with (
                deadline(operation, patience.head),
                self.session.request(
                    method, url, timeout=timeout, verify=self._tls_verify, allow_redirects=False, stream=True, **request
                ) as response,
            ):
                body: bytes = response.raw.read(_MAX_TOKEN_BYTES, decode_content=True)
        except requests.RequestException as error:
            operation.check()
            if refused := tls.refusal(urlsplit(url).netloc, error, self._settings.ca_bundle):
                raise refused from error
            raise Unavailable(f"the token endpoint of {self._host} does not answer ({type(error).__name__})") from error
        if response.status_code in {401, 400}:
            who = "refused the credentials" if self._credential else "gives no anonymous access"
            said = f"the token endpoint of {self._host} {who} for {self._repository}"
            raise Unauthorized(said, by_registry=True)
        if response.status_code == 403:
            said = f"the token endpoint of {self._host} denies access to {self._repository}"
            raise Denied(said, by_registry=True)
        if response.status_code in RETRYABLE_STATUS:
            raise Unavailable(f"the token endpoint of {self._host} answers {response.status_code}")
        if response.status_code != 200:
            raise Unauthorized(f"the token endpoint of {self._host} answers {response.status_code}")
        return body
