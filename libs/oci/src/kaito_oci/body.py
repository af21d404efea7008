"""A part of a blob as the body of a request: read block by block, never held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from kaito_oci.errors import FileChanged
from kaito_oci.operation import CURRENT


class SeekableReader(Protocol):
    """What a blob opens to."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end."""

    def seek(self, position: int, /) -> object:
        """Continue from a position."""

    def close(self) -> None:
        """Release what is open."""


class Body:
    """`length` bytes of `reader` from `start`, in the form that requests streams with a Content-Length."""

    def __init__(self, reader: SeekableReader, start: int, length: int, on_bytes: Callable[[int], None]) -> None:
        self._reader = reader
        self.start = start
        """Where in the blob the body begins."""
        self._length = length
        self._on_bytes = on_bytes
        self._read = 0
        self.on_read: Callable[[], None] = _nothing
        """Called at each read: the registry is still taking bytes."""
        reader.seek(start)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while block := self.read(64 * 1024):
            yield block

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`."""
        CURRENT.get().check()
        self.on_read()
        wanted = min(size, self._length - self._read)
        block = self._reader.read(wanted)
        if wanted and not block:
            # The registry would wait for the rest until its own deadline.
            raise FileChanged("a file became shorter while it was being sent")
        self._read += len(block)
        self._on_bytes(len(block))
        return block

    def seek(self, position: int) -> None:
        """Start again, after a registry asked for credentials first. Only 0 makes sense."""
        self._on_bytes(position - self._read)
        self._read = position
        self._reader.seek(self.start + position)


def _nothing() -> None:
    return None
