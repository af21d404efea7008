"""Puts images into a running containerd by stream: only the bytes that it does not have yet."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path

from kaito_local.command import run
from kaito_local.errors import CommandError
from kaito_local.images.archive import write_archive
from kaito_local.images.blobs import BlobStore
from kaito_local.images.spec import Image

# The namespace of Kubernetes' images and containers in containerd.
_NAMESPACE = "k8s.io"
# ctr files an image under its name before it unpacks it; this label says that the unpacking came to its end.
_WHOLE = "kaito.sh/unpacked"
_IMPORT_TIMEOUT = 1200.0  # 140 s for the 6 GB layer on an idle machine


class Containerd:
    """One containerd, addressed by its socket."""

    def __init__(self, socket: Path) -> None:
        self._ctr = ("ctr", "--address", str(socket), "--namespace", _NAMESPACE)

    async def references(self, *filters: str) -> set[str]:
        """The names of the images that it has, of those that match the filters."""
        return set((await run(*self._ctr, "images", "list", "-q", *filters)).split())

    async def digests(self) -> set[str]:
        """The digests of the blobs that it has."""
        return set((await run(*self._ctr, "content", "list", "-q")).split())

    async def load(self, store: BlobStore, images: list[Image], prefix: str) -> list[str]:
        """Import the images that are missing and forget their older builds; returns the names that were new."""
        whole = await self.references(f'labels."{_WHOLE}"==yes')
        missing = [image for image in images if image.reference(prefix) not in whole]
        if missing:
            await self._import(store, missing, prefix)
        for image in missing:
            await run(*self._ctr, "images", "label", image.reference(prefix), f"{_WHOLE}=yes")
        current = {image.reference(prefix) for image in images}
        names = tuple(f"{prefix}/{image.name}:" for image in images)
        outdated = sorted(name for name in await self.references() if name.startswith(names) and name not in current)
        if outdated:
            await run(*self._ctr, "images", "remove", "--sync", *outdated, timeout=_IMPORT_TIMEOUT)
        return [image.reference(prefix) for image in missing]

    async def _import(self, store: BlobStore, images: list[Image], prefix: str) -> None:
        present = await self.digests()
        words = (*self._ctr, "images", "import", "-")
        # A plain pipe that a thread writes the archive into: gigabytes that asyncio need not touch.
        read_end, write_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=read_end, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        finally:
            os.close(read_end)
        writing = asyncio.to_thread(_write, write_end, store, images, prefix, present)
        try:
            async with asyncio.timeout(_IMPORT_TIMEOUT):
                (output, _), failure = await asyncio.gather(process.communicate(), _broken_pipe(writing))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode or failure:
            raise CommandError(words, process.returncode or 1, output.decode(errors="replace") or str(failure))


async def _broken_pipe(writing: Coroutine[None, None, None]) -> BrokenPipeError | None:
    """The end of a write whose reader gave up early: what the reader said about it is the better message."""
    try:
        await writing
    except BrokenPipeError as error:
        return error
    return None


def _write(descriptor: int, store: BlobStore, images: list[Image], prefix: str, present: set[str]) -> None:
    with os.fdopen(descriptor, "wb", buffering=0) as target:
        write_archive(store, images, prefix, target, present)
