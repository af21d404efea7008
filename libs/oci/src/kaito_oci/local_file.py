"""A file of this machine that is being sent: what fails here is said to be here, and not the registry's."""

from __future__ import annotations

from pathlib import Path

from kaito_oci.errors import FileUnreadable


class LocalFile:
    """A file to read. Every method raises FileUnreadable instead of OSError, which means the network to those above."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise self._unreadable(error) from error

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        try:
            return self._file.read(size)
        except OSError as error:
            raise self._unreadable(error) from error

    def seek(self, position: int) -> None:
        """Continue from a position."""
        try:
            self._file.seek(position)
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _unreadable(self, error: OSError) -> FileUnreadable:
        return FileUnreadable(f"{self._path} cannot be read: {error.strerror or type(error).__name__}")
