"""Blobs to push: bytes in memory, a file, or a tar archive that exists only while it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from kaito_oci import digest as digests
from kaito_oci.archive import Member, TarReader, layout
from kaito_oci.body import SeekableReader
from kaito_oci.local_file import LocalFile
from kaito_oci.manifest import Descriptor

_BLOCK = 1024 * 1024


class Blob(Protocol):
    """Content with its descriptor, openable as often as needed."""

    descriptor: Descriptor

    def open(self) -> SeekableReader:
        """A fresh reader at position 0."""


class BytesBlob:
    """A small blob: configs."""

    def __init__(self, content: bytes, media_type: str, annotations: Mapping[str, str] | None = None) -> None:
        self.descriptor = Descriptor(
            media_type=media_type, digest=digests.sha256(content), size=len(content), annotations=_notes(annotations)
        )
        self._content = content

    def open(self) -> SeekableReader:
        """A fresh reader."""
        return io.BytesIO(self._content)


class FileBlob:
    """A file as it is. The constructor reads it once for the digest: make it in a worker thread when it is large."""

    def __init__(self, path: Path, media_type: str, annotations: Mapping[str, str] | None = None) -> None:
        self._path = path
        digest, size = _digest(self.open())
        self.descriptor = Descriptor(media_type=media_type, digest=digest, size=size, annotations=_notes(annotations))

    def open(self) -> SeekableReader:
        """A fresh reader."""
        return LocalFile(self._path)


class TarBlob:
    """Files as one uncompressed, reproducible layer, never written to disk. The constructor reads all of them once."""

    def __init__(
        self, members: list[Member], media_type: str, annotations: Mapping[str, str] | None = None, *, mtime: int = 0
    ) -> None:
        self._segments = layout(members, mtime)
        digest, size = _digest(self.open())
        self.descriptor = Descriptor(media_type=media_type, digest=digest, size=size, annotations=_notes(annotations))

    def open(self) -> SeekableReader:
        """A fresh reader."""
        return TarReader(self._segments)


def _notes(annotations: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(sorted(annotations.items())) if annotations else None


def _digest(reader: SeekableReader) -> tuple[str, int]:
    state, size = hashlib.sha256(), 0
    try:
        while block := reader.read(_BLOCK):
            state.update(block)
            size += len(block)
    finally:
        reader.close()
    return digests.of(state), size
