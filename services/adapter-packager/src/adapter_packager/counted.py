"""Blobs that count what of them is sent, as the registry's client reads them."""

from __future__ import annotations

from collections.abc import Callable

from kaito_oci import Blob
from kaito_oci.body import SeekableReader

OnRead = Callable[[int], None]


class CountedBlob:
    """A blob whose bytes count each time that they are sent: what a broken upload sends once more counts once more."""

    def __init__(self, blob: Blob, on_read: OnRead) -> None:
        self.descriptor = blob.descriptor
        self.opened = False
        """Whether any attempt sent it; the client does not open what the registry has."""
        self._blob = blob
        self._on_read = on_read

    def open(self) -> SeekableReader:
        """A fresh reader at position 0."""
        self.opened = True
        return _Reader(self._blob.open(), self._on_read)


class _Reader:
    def __init__(self, reader: SeekableReader, on_read: OnRead) -> None:
        self._on_read = on_read
        self._reader = reader
        self.seek = reader.seek
        self.close = reader.close

    def read(self, size: int, /) -> bytes:
        block = self._reader.read(size)
        self._on_read(len(block))
        return block
