"""Pulling an image or artifact into a folder: verified, bounded, resumable, never half there."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import msgspec

from kaito_oci.contents import Content, Shape, plan
from kaito_oci.credentials import CredentialSource
from kaito_oci.decompress import Bounded, opened
from kaito_oci.destination import Destination
from kaito_oci.download import BlobStream, disk_errors, download
from kaito_oci.errors import DiskFull, NotFound, OciError, TooLarge
from kaito_oci.limits import Limits
from kaito_oci.manifest import Platform
from kaito_oci.operation import Operation, in_thread
from kaito_oci.platforms import this_machine
from kaito_oci.progress import Meter, ProgressCallback
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import Image, open_session, read_image
from kaito_oci.settings import RegistrySettings
from kaito_oci.unpack import Unpacker

_DRAIN = 256 * 1024


class PullResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull left in the folder."""

    digest: str
    """What the reference resolved to; `repo@digest` pulls the same again."""
    manifest_digest: str
    files: tuple[str, ...]
    """Relative names, sorted."""
    bytes: int
    """Size of the files together."""
    annotations: dict[str, str]
    """Of the manifest."""
    cached: bool
    """True when everything was there already and nothing was downloaded."""


async def pull(
    reference: str | Reference,
    dest: Path,
    *,
    path: str | None = None,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    progress: ProgressCallback | None = None,
    limits: Limits | None = None,
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
) -> PullResult:
    """Fetch `reference` into the folder `dest`.

    `path` is the only folder of an image's file system that is wanted; its content lands directly in `dest`. An artifact has no
    file system: `path` does not concern it, its files land in `dest` by their names. `dest` appears complete, or, where it exists
    already (a mounted volume), gets its files by renames after everything was verified. A second call with the same digest finds
    them and only asks for the manifest. Files of an artifact that a broken call left half done are continued by Range; within one
    call every blob is.

    `platform` chooses from an index (this machine's by default). Raises OciError; see `errors` for the reasons.
    """
    allowed = limits or Limits()
    session = open_session(
        Reference.of(reference),
        lambda client: read_image(client, platform or this_machine(), allowed),
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )
    async with session as (operation, registry, image):
        return await _Pull(operation, registry, image, dest, allowed).fetch(path or "", progress)


class _Pull:
    """One pull under way."""

    def __init__(
        self, operation: Operation, registry: HardenedRegistry, image: Image, dest: Path, limits: Limits
    ) -> None:
        self._operation = operation
        self._registry = registry
        self._image = image
        self._dest = dest
        self._limits = limits
        self._contents = plan(image.manifest)
        self._total = sum(content.blob.size for content in self._contents)

    async def fetch(self, path: str, progress: ProgressCallback | None) -> PullResult:
        digest = self._image.manifest_digest
        target = await in_thread(self._operation, Destination, self._dest, digest, path.strip("/"))
        if (stored := await in_thread(self._operation, target.already)) is not None:
            return _result(self._image, stored.files, cached=True)
        staging = await in_thread(self._operation, self._prepare, target)
        tree, meter = staging / "tree", Meter(progress, self._total)
        try:
            await in_thread(self._operation, self._unpack_all, tree, path, meter)
            await self._download_all(tree, meter)
            stored = await in_thread(self._operation, target.publish, tree)
        except BaseExceptionGroup as group:
            error = _first(group)
            await in_thread(Operation(), _abandon, target, error)
            raise error from group
        except OciError as error:
            await in_thread(Operation(), _abandon, target, error)
            raise
        return _result(self._image, stored.files, cached=False)

    def _prepare(self, target: Destination) -> Path:
        if self._total > self._limits.max_bytes:
            raise TooLarge(f"the blobs have {self._total} bytes, more than the {self._limits.max_bytes} allowed")
        with disk_errors(self._dest):
            staging = target.prepare()
        free = shutil.disk_usage(staging).free
        held = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        if self._total > free + held:
            target.discard()
            need = f"the image needs at least {self._total // 2**20} MiB"
            raise DiskFull(f"{self._dest} has {free // 2**20} MiB free, {need}")
        return staging

    def _unpack_all(self, tree: Path, path: str, meter: Meter) -> None:
        """Layers that are archives, streamed: never stored packed. What a broken call left of them was not verified: it goes."""
        layers = [content for content in self._contents if content.shape is Shape.TREE]
        if not layers:
            tree.mkdir(exist_ok=True)
            return
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(mode=0o755)
        # Artifacts have no root file system for the path to lie in.
        unpacker = Unpacker(tree, path if self._image.manifest.is_image else "", self._limits)
        for layer in layers:
            with closing(BlobStream(self._registry, layer.blob, on_bytes=meter.add)) as stream:
                unpacker.apply(Bounded(opened(stream, layer.compression), layer.blob.size, self._limits))
                while stream.read(_DRAIN):  # padding after the archive's end; the last read verifies the digest
                    pass
        unpacker.finish()

    async def _download_all(self, tree: Path, meter: Meter) -> None:
        files = [content for content in self._contents if content.shape is Shape.FILE]
        if len(files) > self._limits.max_files:
            raise TooLarge(f"the artifact has {len(files)} files, more than the {self._limits.max_files} allowed")
        gate = asyncio.Semaphore(self._limits.parallel)

        async def one(content: Content) -> None:
            async with gate:
                await in_thread(self._operation, self._download, content, tree, meter)

        async with asyncio.TaskGroup() as group:
            for content in files:
                group.create_task(one(content))

    def _download(self, content: Content, tree: Path, meter: Meter) -> None:
        target = tree / content.name
        if target.is_file() and target.stat().st_size == content.blob.size:
            meter.add(content.blob.size)  # verified by the call that renamed it to this name
            return
        with disk_errors(tree):
            target.parent.mkdir(parents=True, exist_ok=True)
        download(self._registry, content.blob, target, meter.add)
        target.chmod(0o644)


def _abandon(target: Destination, error: OciError) -> None:
    """What can be continued stays; what is wrong or in the way goes."""
    if not error.retryable or isinstance(error, DiskFull | NotFound):
        target.discard()


def _first(group: BaseExceptionGroup[BaseException]) -> OciError:
    """The error to report of several downloads that failed together: a permanent one before one that retrying may cure."""
    errors: list[OciError] = []
    known, others = group.split(OciError)
    if others is not None:
        raise others
    stack: list[BaseException] = [known] if known else []
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        elif isinstance(error, OciError):
            errors.append(error)
    return min(errors, key=lambda error: error.retryable)


def _result(image: Image, files: dict[str, int], *, cached: bool) -> PullResult:
    return PullResult(
        digest=image.digest,
        manifest_digest=image.manifest_digest,
        files=tuple(sorted(files)),
        bytes=sum(files.values()),
        annotations=image.manifest.annotations or {},
        cached=cached,
    )
