"""Tar as a stream, read with bounded memory.

The standard library's `tarfile` reads a PAX or long-name header into memory whole, whatever length it claims, and decides
about links itself. This reader knows USTAR, PAX (path, linkpath, size) and GNU long names, and hands out entries; what may be
written where is decided by `unpack`. POSIX.1-2017 pax, "ustar Interchange Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from kaito_oci.errors import UnsafeArchive

BLOCK = 512
_MAX_EXTENSION = 1024 * 1024
_MAX_READ = 1024 * 1024

FILE, HARD_LINK, SYMLINK, FOLDER = "file", "hard link", "symlink", "folder"
_KINDS = {"0": FILE, "\0": FILE, "7": FILE, "1": HARD_LINK, "2": SYMLINK, "5": FOLDER}
_OTHERS = {"3": "character device", "4": "block device", "6": "fifo", "S": "sparse file"}


class Source(Protocol):
    """A stream that may return fewer bytes than asked for, and b"" only at its end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


class Entry(msgspec.Struct, frozen=True):
    """One member of an archive."""

    name: str
    kind: str
    size: int
    mode: int
    link: str


class Reader:
    """Iterates over the entries; between two entries, `chunks` gives the content of the current one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        extended: dict[str, str] = {}
        while (header := self._header()) is not None:
            kind = header[156:157].decode("latin-1")
            size = _number(header[124:136])
            if kind in "xgLK":
                self._extend(extended, kind, self._extension(size))
                continue
            size = int(extended["size"]) if extended.get("size", "").isdecimal() else size
            name = extended.get("path") or _name(header)
            what = _KINDS.get(kind) or _OTHERS.get(kind) or f"entry of type {kind!r}"
            if what == FILE and name.endswith("/"):
                what = FOLDER  # before POSIX.1-1988 a folder was a file whose name ends so
            if any(key.startswith("GNU.sparse") for key in extended):
                what = "sparse file"
            self._left = size if what == FILE else 0
            self._padding = -self._left % BLOCK
            yield Entry(
                name, what, self._left, _number(header[100:108]), extended.get("linkpath") or _text(header[157:257])
            )
            for _ in self.chunks():
                pass
            self._exactly(self._padding)
            extended = {}

    def chunks(self) -> Iterator[bytes]:
        """The rest of the current entry's content."""
        while self._left:
            yield self.read(_MAX_READ)

    def read(self, size: int) -> bytes:
        """Some bytes of the current entry's content, at most `size`; b"" at its end."""
        if not self._left:
            return b""
        chunk = self._source.read(min(size, self._left))
        if not chunk:
            raise UnsafeArchive("the layer's tar ends in the middle of a file")
        self._left -= len(chunk)
        return chunk

    def _header(self) -> bytes | None:
        header = self._exactly(BLOCK, may_end=True)
        if not header or not header.strip(b"\0"):
            return None
        stated = _number(header[148:156])
        actual = sum(header[:148]) + 256 + sum(header[156:])
        if stated != actual:
            raise UnsafeArchive("the layer is not a tar archive (a header's checksum is wrong)")
        return header

    def _extension(self, size: int) -> bytes:
        if size > _MAX_EXTENSION:
            raise UnsafeArchive(f"a tar header extension claims {size} bytes")
        content = self._exactly(size)
        self._exactly(-size % BLOCK)
        return content

    def _extend(self, extended: dict[str, str], kind: str, content: bytes) -> None:
        if kind == "L":
            extended["path"] = _text(content)
        elif kind == "K":
            extended["linkpath"] = _text(content)
        elif kind == "x":
            extended.update(_pax(content))
        # A global header ("g") carries comments in practice (git archive); paths in it would apply to every file: ignored.

    def _exactly(self, size: int, *, may_end: bool = False) -> bytes:
        content = bytearray()
        while len(content) < size:
            chunk = self._source.read(size - len(content))
            if not chunk:
                if may_end and not content:
                    return b""
                raise UnsafeArchive("the layer's tar ends in the middle of a header")
            content += chunk
        return bytes(content)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _name(header: bytes) -> str:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = _text(header[:100])
    return f"{prefix}/{name}" if prefix else name


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: base 256, big-endian
        if field[0] != 0x80:
            raise UnsafeArchive("a tar header has a negative number")
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError as error:
        raise UnsafeArchive("a tar header has a number that is none") from error


def _pax(content: bytes) -> dict[str, str]:
    """Records of the form `length key=value\\n`; the last of a key counts."""
    found: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not len(length) + 2 < int(length) <= len(content):
            raise UnsafeArchive("a PAX header is malformed")
        record = content[len(length) + 1 : int(length) - 1]
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    return found
