"""The HTTP session under oras-py: connections that can be cut, more authorities, proxies of the environment, never a .netrc."""

from __future__ import annotations

import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kaito_oci.operation import CURRENT
from kaito_oci.tls import trusting

SEND_BLOCK = 256 * 1024
"""Bytes per read of a body that is sent: http.client's 8 KiB costs more CPU than the bytes themselves. Each block must leave
within the connect timeout, so this is also the slowest line that works: 26 KiB/s."""


class _Connection(HTTPConnection):
    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        CURRENT.get().track(self)
        super().putrequest(*args, **kwargs)


class _TlsConnection(HTTPSConnection):
    def putrequest(self, *args: Any, **kwargs: Any) -> None:
        CURRENT.get().track(self)
        super().putrequest(*args, **kwargs)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    def __init__(self, trust: ssl.SSLContext | None) -> None:
        # Without a context of ours urllib3 makes one for each connection.
        self._tls: dict[str, Any] = {"ssl_context": trust} if trust is not None else {}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs |= self._tls
        super().init_poolmanager(*args, **kwargs, blocksize=SEND_BLOCK)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, **self._tls)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def _no_ambient_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # A session with an auth of its own does not look into ~/.netrc, which would overwrite our Authorization header.
    return request


def prepare(session: requests.Session, ca_bundle: str) -> None:
    """Mount our adapter on oras-py's session and close its ambient sources of credentials.

    Registry, token endpoint and the places that blobs are redirected to are all asked through it. Raises TlsFailed.
    """
    adapter = _Adapter(trusting(ca_bundle) if ca_bundle else None)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.auth = _no_ambient_login
    session.headers["Accept-Encoding"] = "identity"
    session.headers["User-Agent"] = "kaito-oci"
