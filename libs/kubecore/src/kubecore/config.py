"""Which cluster to talk to, and with which credentials.

The files are read by kubernetes-asyncio's readers (exec plug-ins, OIDC, client certificates, in-cluster token); what they find is
reduced to the few values that the transport needs. Client certificates and the CA are read once: replacing them needs a restart.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kubecore.errors import ConfigError
from kubecore.kubernetes_asyncio_config import readers

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the apiserver is and how to reach it; all but the token stays the same while the process runs."""

    server: str
    """URL without a trailing slash; may have a path prefix."""
    tls: ssl.SSLContext | bool
    """True for plain http."""
    server_hostname: str | None = None
    """Name to verify instead of the URL's host (`tls-server-name`)."""
    proxy: str | None = None
    authorization: str | None = field(default=None, repr=False)
    """The Authorization header to begin with; None for a client certificate or anonymous access."""


class Credentials(Protocol):
    """Where the Authorization header comes from."""

    expires: bool
    """Whether the source must be read again from time to time, not only after a 401."""

    async def open(self) -> Connection:
        """Read everything for the first time. Raises ConfigError."""

    async def authorization(self, renew: bool) -> str | None:
        """Return the header's current value, None for a client certificate or anonymous access.

        `renew` drops what a plug-in cached, after a 401. Raises ConfigError.
        """


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A cluster that was chosen and not yet opened. Made by `load_config`."""

    kubeconfig: str | None = None
    """Path or paths as in $KUBECONFIG; None for in-cluster."""
    context: str | None = None
    service_account: Path = SERVICE_ACCOUNT
    """Folder with `token` and `ca.crt`; another one only in tests."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def credentials(self) -> Credentials:
        """Return the reader for this configuration; it has read nothing yet."""
        if self.kubeconfig is None:
            return _InCluster(self.service_account, self.environ)
        return _Kubeconfig(self.kubeconfig, self.context)


def load_config(kubeconfig: str | None = None, context: str | None = None) -> ClusterConfig:
    """Choose the cluster: the named kubeconfig, else $KUBECONFIG, else the service account of the pod.

    The default file in the home directory is never taken: no controller acts on whatever cluster a shell points to.
    Raises ConfigError when there is none.
    """
    paths = kubeconfig or os.environ.get("KUBECONFIG")
    if paths:
        if not any(os.path.isfile(os.path.expanduser(path)) for path in paths.split(os.pathsep)):
            raise ConfigError(f"kubeconfig {paths} does not exist; give --kubeconfig or set KUBECONFIG")
        return ClusterConfig(kubeconfig=paths, context=context)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return ClusterConfig()
    raise ConfigError("no cluster: give --kubeconfig, set KUBECONFIG, or run in a pod with a service account")


class _InCluster:
    """The pod's service account. The token is bound and rotated by the kubelet, so its file is read again and again."""

    expires = True

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    async def open(self) -> Connection:
        return await asyncio.to_thread(self._open)

    async def authorization(self, renew: bool) -> str | None:
        return await asyncio.to_thread(self._token)

    def _load(self) -> Any:
        library = readers()
        settings = library.configuration()
        loader = library.in_cluster_loader(
            token_filename=str(self._folder / "token"),
            cert_filename=str(self._folder / "ca.crt"),
            environ=dict(self._environ),
        )
        try:
            loader.load_and_set(settings)
        except (library.config_exception, OSError) as error:
            raise ConfigError(f"service account in {self._folder}: {error}") from error
        return settings

    def _open(self) -> Connection:
        settings = self._load()
        return Connection(server=settings.host, tls=_client_tls(settings), authorization=_header(settings))

    def _token(self) -> str | None:
        return _header(self._load())


class _Kubeconfig:
    """A kubeconfig context: static token, token file, client certificate, basic auth, exec plug-in, OIDC, GCP.

    kubernetes-asyncio's reader is a coroutine that reads files as it goes: it runs in a loop of its own, in a thread.
    """

    def __init__(self, paths: str, context: str | None) -> None:
        self._paths = paths
        self._context = context
        self._loader: Any = None
        self.expires = False

    async def open(self) -> Connection:
        return await asyncio.to_thread(self._open)

    async def authorization(self, renew: bool) -> str | None:
        return await asyncio.to_thread(self._authorization, renew)

    def _open(self) -> Connection:
        library = readers()
        try:
            merged = library.kubeconfig_merger(self._paths).config
            self._loader = library.kubeconfig_loader(merged, active_context=self._context, config_base_path=None)
            settings = self._load()
            tls = _client_tls(settings) if settings.host.startswith("https") else True
        except (library.config_exception, OSError, AssertionError, TypeError, AttributeError, ValueError) as error:
            # the reader meets a malformed file with whatever its code runs into
            raise ConfigError(f"kubeconfig {self._paths}: {type(error).__name__}: {error}") from error
        finally:
            library.remove_temporary_files()
        return Connection(
            server=str(settings.host).rstrip("/"),
            tls=tls,
            server_hostname=settings.tls_server_name or None,
            proxy=settings.proxy or None,
            authorization=_header(settings),
        )

    def _authorization(self, renew: bool) -> str | None:
        library = readers()
        if renew and hasattr(self._loader, "exec_plugin_expiry"):
            del self._loader.exec_plugin_expiry
        try:
            return _header(self._load())
        except (library.config_exception, OSError, ValueError) as error:
            raise ConfigError(f"kubeconfig {self._paths}: credentials: {error}") from error
        finally:
            library.remove_temporary_files()

    def _load(self) -> Any:
        settings = readers().configuration()

        async def load() -> None:
            async with asyncio.timeout(EXEC_DEADLINE):
                await self._loader.load_and_set(settings)

        try:
            asyncio.run(load())
        except TimeoutError as error:
            reason = f"credential plug-in gave no answer within {EXEC_DEADLINE:.0f} s"
            raise ConfigError(f"kubeconfig {self._paths}: {reason}") from error
        user = self._loader._user
        self.expires = hasattr(self._loader, "exec_plugin_expiry") or (user is not None and "tokenFile" in user)
        return settings


def _header(settings: Any) -> str | None:
    """Return the header that the reader found, without the newline with which token files often end."""
    token = settings.api_key.get("BearerToken")
    return str(token).strip() if token else None


def _client_tls(settings: Any) -> ssl.SSLContext:
    """Build the TLS context: about 60 ms, so once per process."""
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    if not settings.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
