"""Gets a wanted adapter's files: resolve, pull, verify, look at, stage. The engine is not touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import kaito_oci
from kaito_api.base_shapes import Base
from kaito_api.conditions import Reason
from kaito_oci.errors import OciError
from model_server import pull_secrets
from model_server.adapters import preflight, store
from model_server.adapters.store import AdapterStore
from model_server.adapters.version import Version
from model_server.adapters.wanted import Wanted
from model_server.metrics import Metrics

if TYPE_CHECKING:
    from kubecore.client import Client

IMAGE_FOLDER: Final = "data"
"""Where an adapter image keeps its files (KAITO's layout). Artifacts have them at the top."""
STORE_FAILED: Final = "AdapterStoreFailed"
LIMITS: Final = kaito_oci.Limits(max_bytes=32 * 1024**3, max_files=1000)
"""An adapter of rank 512 on every layer of a 70B model has 13 GiB."""


class AcquireError(Exception):
    """The files cannot be had. `reason` is stable; `retryable` says whether the same attempt may succeed later."""

    def __init__(self, reason: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What a wanted adapter is at this moment."""

    version: Version
    note: str = ""
    """For the user, where something is not as it should be but serving goes on."""


class Acquirer:
    """Turns wanted adapters into staged folders."""

    def __init__(
        self,
        *,
        adapter_store: AdapterStore,
        client: Client | None,
        namespace: str,
        plain_http: tuple[str, ...],
        base: Base | None,
        max_rank: int,
        metrics: Metrics,
    ) -> None:
        self._store = adapter_store
        self._client = client
        self._namespace = namespace
        self._plain_http = plain_http
        self._base = base
        self._max_rank = max_rank
        self._metrics = metrics

    async def resolve(self, item: Wanted) -> Resolved:
        """Return which version is meant now. Raises AcquireError."""
        if item.folder:
            try:
                digest = await asyncio.to_thread(store.content_digest, Path(item.folder))
            except OSError as error:
                message = f"{item.folder} holds no readable adapter: {error}"
                raise AcquireError("AdapterFileMissing", message, retryable=True) from error
            return Resolved(version=Version(item.name, digest, item.strength))
        auth = await self._credentials(item)
        try:
            digest = await kaito_oci.resolve(item.image, auth=auth, plain_http_hosts=self._plain_http)
        except OciError as error:
            known = await asyncio.to_thread(self._store.recall, item.image) if error.retryable else ""
            if not known:
                raise _from_oci(error) from error
            note = f"the registry does not answer ({error}); serving what {item.image} was last"
            return Resolved(version=Version(item.name, known, item.strength), note=note)
        return Resolved(version=Version(item.name, digest, item.strength))

    async def acquire(self, item: Wanted, version: Version, pulling: Callable[[], None]) -> Path:
        """Return the staged folder of `version`; `pulling` is called if something must be fetched. Raises AcquireError."""
        if item.folder:
            source = Path(item.folder)
        else:
            source = self._store.pulled(version.digest)
            if not await asyncio.to_thread(self._store.has, version.digest):
                pulling()
                with self._timed("pull"):
                    await self._pull(item, version, source)
        try:
            with self._timed("preflight"):
                await asyncio.to_thread(preflight.inspect, source, self._base, self._max_rank)
            with self._timed("stage"):
                folder = await asyncio.to_thread(self._store.stage, source, version)
                await asyncio.to_thread(self._store.warm, folder)
        except preflight.AdapterRefusedError as error:
            raise AcquireError(error.reason, str(error), retryable=False) from error
        except OSError as error:
            message = f"the adapter store cannot be written: {error.strerror}"
            raise AcquireError(STORE_FAILED, message, retryable=True) from error
        if item.image:
            await asyncio.to_thread(self._store.remember, item.image, version.digest)
        return folder

    async def _pull(self, item: Wanted, version: Version, target: Path) -> None:
        pinned = kaito_oci.Reference.parse(item.image).pinned(version.digest)
        auth = await self._credentials(item)
        try:
            await kaito_oci.pull(
                pinned, target, path=IMAGE_FOLDER, auth=auth, plain_http_hosts=self._plain_http, limits=LIMITS
            )
        except OciError as error:
            raise _from_oci(error) from error

    async def _credentials(self, item: Wanted) -> kaito_oci.CredentialSource:
        try:
            return await pull_secrets.read(self._client, self._namespace, item.pull_secrets)
        except pull_secrets.SecretError as error:
            reason = Reason.WAITING_FOR_ACCESS if error.waiting else Reason.ACCESS_DENIED
            raise AcquireError(str(reason), str(error), retryable=error.waiting) from error

    def _timed(self, phase: str) -> _Timer:
        return _Timer(self._metrics, phase)


class _Timer:
    """Observes the time of a phase that succeeds."""

    def __init__(self, metrics: Metrics, phase: str) -> None:
        self._histogram = metrics.adapter_load.labels(phase)

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        if kind is None:
            self._histogram.observe(time.perf_counter() - self._started)


def _from_oci(error: OciError) -> AcquireError:
    return AcquireError(error.reason, str(error), retryable=error.retryable)
