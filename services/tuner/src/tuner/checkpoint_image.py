"""Checkpoints as an artifact in a registry, for a pod that finds no volume of the one before it: one tag, overwritten each time.

The artifact holds the files of one checkpoint, or of the finished adapter, each as it is; annotations say what they belong to.
A tag moves only after every file is stored, and a file counts only with the digest that the manifest names, so nothing half
done is ever seen. A failed upload costs nothing but the newer checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from kaito_oci import (
    Blob,
    BytesBlob,
    CredentialSource,
    FileBlob,
    OciError,
    Reference,
    RegistrySettings,
    inspect,
    pull,
    push,
)
from kaito_oci.errors import NotFound
from kaito_oci.media_types import OCI_EMPTY, OCI_MANIFEST, TITLE
from tuner import checkpoints

ARTIFACT: Final = "application/vnd.kaito.checkpoint.v1"
FILE: Final = "application/vnd.kaito.checkpoint.file.v1"
_PREFIX: Final = "sh.kaito.checkpoint."

Credentials = Callable[[], Awaitable[CredentialSource]]
"""Reads the login anew, so that a Secret repaired meanwhile counts. Raises SecretError."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact belongs to."""

    key: str
    """Of the run for a checkpoint (job.run_key), of the result for a finished adapter (job.result_key)."""
    step: int = 0
    """0 for a finished adapter."""
    micro_limit: int | None = None
    request: str = ""
    """Of a finished adapter: the request that it answers (job.request_key)."""


class CheckpointImage:
    """One tag in a registry."""

    def __init__(self, reference: Reference, credentials: Credentials, settings: RegistrySettings) -> None:
        self.reference = reference
        self._credentials = credentials
        self._settings = settings

    async def mark(self) -> Mark | None:
        """What the tag holds now; None where there is nothing of ours. Raises OciError, SecretError."""
        try:
            image = await inspect(self.reference, auth=await self._credentials(), settings=self._settings)
        except NotFound:
            return None
        return read_mark(image.manifest.annotations or {})

    async def fetch(self, folder: Path) -> None:
        """Bring the files; `folder` appears whole or not at all. Raises OciError, SecretError."""
        await pull(self.reference, folder, auth=await self._credentials(), settings=self._settings)

    async def store(self, folder: Path, mark: Mark) -> None:
        """Push every file of `folder` (a sealed one) and move the tag. Raises OciError, SecretError, OSError."""
        blobs, manifest = await asyncio.to_thread(_layout, folder, mark)
        await push(self.reference, blobs, manifest, auth=await self._credentials(), settings=self._settings)


async def bring_checkpoint(image: CheckpointImage, folder: Path, key: str) -> Mark | None:
    """Put the registry's checkpoint of run `key` into `folder`, unless a newer whole one lies there already.

    Returns the mark of what was brought; that of another run, which is not brought, as well.
    """
    mark = await image.mark()
    here = checkpoints.step_of(await asyncio.to_thread(checkpoints.latest_whole, folder, key))
    if mark is None or mark.key != key:
        return mark
    if mark.step <= here:
        return None
    target = folder / f"checkpoint-{mark.step}"
    await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    await image.fetch(target)
    return mark if await asyncio.to_thread(checkpoints.latest_whole, folder, key) == target else None


def read_mark(annotations: dict[str, str]) -> Mark | None:
    """The mark in a manifest's annotations, None where they are not ours. Pure."""
    own = {name.removeprefix(_PREFIX): value for name, value in annotations.items() if name.startswith(_PREFIX)}
    try:
        return msgspec.convert(own, Mark, strict=False)
    except msgspec.ValidationError:
        return None


def mark_annotations(mark: Mark) -> dict[str, str]:
    """The other way round. Pure."""
    return {
        f"{_PREFIX}{name}": str(value) for name, value in msgspec.to_builtins(mark).items() if value not in (None, "")
    }


def linked(source: Path, target: Path) -> None:
    """Copy a folder by hard links: the trainer may delete its oldest checkpoint while that is being sent."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=os.link)


def _layout(folder: Path, mark: Mark) -> tuple[list[Blob], bytes]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    empty = BytesBlob(b"{}", OCI_EMPTY)
    files: list[Blob] = [FileBlob(folder / name, FILE, {TITLE: name}) for name in names]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT,
        "config": empty.descriptor,
        "layers": [blob.descriptor for blob in files],
        "annotations": mark_annotations(mark),
    }
    return [*files, empty], msgspec.json.encode(document, order="deterministic")


def retryable(error: Exception) -> bool:
    """Whether the same call can succeed later."""
    return isinstance(error, OciError) and error.retryable
