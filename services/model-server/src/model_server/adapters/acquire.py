"""Gets a wanted adapter's files: resolve, pull, verify, look at, stage. The engine is not touched."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import msgspec

import kaito_oci
from kaito_api.adapter_start import IMAGE_FOLDER
from kaito_api.base_shapes import Base
from kaito_api.conditions import Reason
from kaito_oci.errors import OciError
from model_server import pull_secrets
from model_server.adapters import preflight, remote, store
from model_server.adapters.store import AdapterStore
from model_server.adapters.version import Version
from model_server.adapters.wanted import Wanted
from model_server.metrics import Metrics

if TYPE_CHECKING:
    from kubecore.client import Client

STORE_FAILED: Final = "AdapterStoreFailed"
LIMITS: Final = kaito_oci.Limits(max_bytes=32 * 1024**3, max_files=1000)
"""An adapter of rank 512 on every layer of a 70B model has 13 GiB."""


_ADVICE: Final = {
    "InvalidReference": "write REGISTRY/REPOSITORY:TAG",
    "NotFound": "push the adapter there with adapter-packager push, or correct source.image",
    "Unauthorized": "name a Secret with a login for this registry in source.imagePullSecrets",
    "Denied": "give the login in source.imagePullSecrets the right to pull from this repository",
    "UntrustedRealm": "the operator can name the token endpoint's host among the trusted realms, if it belongs to the registry",
    "UnsafeLocation": "the registry redirects to where no login may go: use its final address in source.image",
    "TLSFailed": "the operator sets private authorities with global.registryCA, and registries without TLS with plainHttpHosts",
    "DigestMismatch": "the registry or something in between alters the content: push the adapter again",
    "UnsafeArchive": "pack the adapter with adapter-packager push",
    "TooLarge": "this is no adapter: correct source.image",
    "InvalidManifest": "pack the adapter with adapter-packager push",
    "UnsupportedMediaType": "pack the adapter with adapter-packager push",
    "DiskFull": "give the node or the adapter store more space",
}
"""What to do, by kaito_oci's reason."""


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
        registries: kaito_oci.RegistrySettings,
        base: Base | None,
        max_rank: int | None,
        metrics: Metrics,
    ) -> None:
        self._store = adapter_store
        self._client = client
        self._namespace = namespace
        self._registries = registries
        self._base = base
        self._max_rank = max_rank
        self._metrics = metrics
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By digest: two adapters may have the same bytes, and the store may be about to drop them."""
        self._mounted: dict[Path, tuple[store.FileStates, str]] = {}
        """Digests of mounted adapters, and the files that they were read from: gigabytes are not read for a strength."""

    async def resolve(self, item: Wanted) -> Resolved:
        """Return which version is meant now. Raises AcquireError."""
        if item.folder:
            try:
                digest = await asyncio.to_thread(self._mounted_digest, Path(item.folder))
            except OSError as error:
                message = f"{item.folder} holds no readable adapter: {error}"
                raise AcquireError("AdapterFileMissing", message, retryable=True) from error
            return Resolved(version=Version(item.name, digest, item.strength))
        auth = await self._credentials(item)
        try:
            digest = await kaito_oci.resolve(item.image, auth=auth, settings=self._registries)
        except OciError as error:
            known = await asyncio.to_thread(self._store.recall, item.image) if error.retryable else ""
            if not known:
                raise _from_oci(error) from error
            note = f"the registry does not answer ({error}); serving what {item.image} was last"
            return Resolved(version=Version(item.name, known, item.strength), note=note)
        return Resolved(version=Version(item.name, digest, item.strength))

    async def acquire(self, item: Wanted, version: Version, pulling: Callable[[], None]) -> Path:
        """Return the staged folder of `version`; `pulling` is called if something must be fetched. Raises AcquireError."""
        async with self._lock(version.digest):
            try:
                return await self._acquire(item, version, pulling)
            except preflight.AdapterRefusedError as error:
                raise AcquireError(error.reason, str(error), retryable=False) from error
            except OSError as error:
                message = f"the adapter store cannot be written: {error.strerror}"
                raise AcquireError(STORE_FAILED, message, retryable=True) from error

    async def look(self, item: Wanted) -> None:
        """Read the beginnings of an image's files, and no more. Raises AcquireError where it cannot be served or read."""
        resolved = await self.resolve(item)
        pinned = kaito_oci.Reference.parse(item.image).pinned(resolved.version.digest)
        try:
            await self._judge(pinned, await self._credentials(item))
        except preflight.AdapterRefusedError as error:
            raise AcquireError(error.reason, str(error), retryable=False) from error
        except OciError as error:
            raise _from_oci(error) from error

    async def collect(self, kept: Callable[[], set[str]]) -> None:
        """Drop the content of every digest that is not `kept`, asked at the moment when it would go. Raises OSError."""
        for digest in await asyncio.to_thread(self._store.digests):
            if digest in kept():
                continue
            async with self._lock(digest):
                if digest not in kept():
                    await asyncio.to_thread(self._store.discard, digest)

    async def _acquire(self, item: Wanted, version: Version, pulling: Callable[[], None]) -> Path:
        source = Path(item.folder) if item.folder else self._store.pulled(version.digest)
        if item.image and not await asyncio.to_thread(self._store.has, version.digest):
            pulling()
            await self._fetch(item, version, source)
        with self._timed("preflight"):
            await asyncio.to_thread(preflight.inspect, source, self._base, self._max_rank)
        with self._timed("stage"):
            folder = await asyncio.to_thread(self._stage, source, version)
        if item.image:
            await asyncio.to_thread(self._store.remember, item.image, version.digest)
        return folder

    def _mounted_digest(self, folder: Path) -> str:
        """Return the digest of a mounted adapter as it is now. Blocks. Raises OSError."""
        states = store.file_states(folder)
        known = self._mounted.get(folder)
        if known is None or known[0] != states:
            known = self._mounted[folder] = (states, store.content_digest(folder))
        return known[1]

    def _stage(self, source: Path, version: Version) -> Path:
        """Stage, and warm what the engine has not read yet. Blocks."""
        known = bool(self._store.staged(version.digest))
        folder = self._store.stage(source, version)
        if not known:
            self._store.warm(folder)
        return folder

    async def _fetch(self, item: Wanted, version: Version, target: Path) -> None:
        """Pull the files, unless their beginnings show already that they cannot be served."""
        pinned = kaito_oci.Reference.parse(item.image).pinned(version.digest)
        auth = await self._credentials(item)
        try:
            with self._timed("peek"):
                await self._judge(pinned, auth)
            with self._timed("pull"):
                await kaito_oci.pull(
                    pinned,
                    target,
                    path=IMAGE_FOLDER,
                    auth=auth,
                    settings=self._registries,
                    limits=LIMITS,
                )
        except OciError as error:
            raise _from_oci(error) from error

    async def _judge(self, pinned: kaito_oci.Reference, auth: kaito_oci.CredentialSource) -> None:
        verdict = await remote.judge(pinned, auth, self._registries, self._base, self._max_rank)
        if verdict is not None and verdict.problems:
            raise preflight.AdapterRefusedError(verdict.problems[0])

    def _lock(self, digest: str) -> asyncio.Lock:
        return self._locks.setdefault(digest, asyncio.Lock())

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
    advice = _ADVICE.get(error.reason, "it is tried again" if error.retryable else "")
    message = f"{str(error).rstrip('.')}; {advice}" if advice else str(error)
    return AcquireError(error.reason, message, retryable=error.retryable)
