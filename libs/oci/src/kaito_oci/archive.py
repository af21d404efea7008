"""Reproducible tar archives: the same files give the same bytes on any machine, whoever packs them and when.

USTAR, owner 0:0 without names, one fixed time, modes 0644 and 0755, folders before their files, everything sorted. The headers
are made here because `tarfile` changed the bytes of its USTAR headers between Python releases. A file of 8 GiB or more gets a
PAX record for its size, which USTAR cannot hold.
"""

from __future__ import annotations

import posixpath
from pathlib import Path

import msgspec

from kaito_oci.errors import FileChanged
from kaito_oci.local_file import LocalFile

_BLOCK = 512
_USTAR_MAX = 8**11 - 1
_END = bytes(2 * _BLOCK)


class Member(msgspec.Struct, frozen=True):
    """One file to pack: its name in the archive, and its content in memory or on disk."""

    name: str
    content: bytes | Path
    executable: bool = False


class _FilePart(msgspec.Struct, frozen=True):
    path: Path
    size: int


Segment = bytes | _FilePart


def layout(members: list[Member], mtime: int) -> list[Segment]:
    """The archive as pieces: header bytes and references to files. `mtime` is in seconds since 1970.

    Raises ValueError for names that are absolute, climb, repeat, or are too long for USTAR.
    """
    names = [member.name for member in members]
    if len(set(names)) != len(names):
        raise ValueError("two members have the same name")
    segments: list[Segment] = []
    folders: set[str] = set()
    for member in sorted(members, key=lambda member: member.name.split("/")):
        if member.name != posixpath.normpath(member.name) or member.name.startswith(("/", "../")):
            raise ValueError(f"{member.name!r} is not a relative path in normal form")
        for folder in _parents(member.name):
            if folder not in folders:
                folders.add(folder)
                segments.append(_header(f"{folder}/", "5", 0o755, 0, mtime))
        segments.extend(_file(member, mtime))
    segments.append(_END)
    return segments


def _file(member: Member, mtime: int) -> list[Segment]:
    content = member.content
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    mode = 0o755 if member.executable else 0o644
    header = _header(member.name, "0", mode, min(size, _USTAR_MAX), mtime)
    if size > _USTAR_MAX:
        header = _size_record(size, mtime) + header
    data: Segment = _FilePart(content, size) if isinstance(content, Path) else content
    return [header, data, bytes(-size % _BLOCK)]


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _size_record(size: int, mtime: int) -> bytes:
    record = f"size={size}\n"
    length = len(record) + 3  # two digits and a space: such a record has 17 to 27 bytes
    body = f"{length} {record}".encode()
    return _header("././@PaxHeader", "x", 0o644, len(body), mtime) + body + bytes(-len(body) % _BLOCK)


def _header(name: str, kind: str, mode: int, size: int, mtime: int) -> bytes:
    """POSIX.1-1988 ustar header block."""
    prefix, base = _split(name)
    fields = b"".join(
        (
            base.ljust(100, b"\0"),
            f"{mode:07o}\0".encode(),
            b"0000000\0" * 2,
            f"{size:011o}\0".encode(),
            f"{mtime:011o}\0".encode(),
            b" " * 8,
            kind.encode(),
            bytes(100),
            b"ustar\x0000",
            bytes(32 + 32),
            b"0000000\0" * 2,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    checksum = f"{sum(fields):06o}\0 ".encode()
    return fields[:148] + checksum + fields[156:]


def _split(name: str) -> tuple[bytes, bytes]:
    encoded = name.encode()
    if len(encoded) <= 100:
        return b"", encoded
    for position, letter in enumerate(encoded):
        if letter == ord("/") and position <= 155 and 0 < len(encoded) - position - 1 <= 100:
            return encoded[:position], encoded[position + 1 :]
    raise ValueError(f"{name!r} is too long for a tar header")


class TarReader:
    """The bytes of an archive, produced while they are read."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._index = 0
        self._offset = 0
        self._open: LocalFile | None = None

    def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; b"" at the end. Raises FileChanged where a file became shorter, FileUnreadable."""
        while self._index < len(self._segments):
            segment = self._segments[self._index]
            left = _size(segment) - self._offset
            if left == 0:
                self._advance()
                continue
            if isinstance(segment, bytes):
                block = segment[self._offset : self._offset + min(size, left)]
            else:
                block = self._from_file(segment, min(size, left))
            self._offset += len(block)
            return block
        return b""

    def seek(self, position: int) -> None:
        """Continue from a position in the archive."""
        self.close()
        self._index = self._offset = 0
        while self._index < len(self._segments) and position >= (size := _size(self._segments[self._index])):
            position -= size
            self._index += 1
        self._offset = position

    def close(self) -> None:
        """Close the file that is being read."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _advance(self) -> None:
        self.close()
        self._index += 1
        self._offset = 0

    def _from_file(self, part: _FilePart, size: int) -> bytes:
        if self._open is None:
            self._open = LocalFile(part.path)
            self._open.seek(self._offset)
        block = self._open.read(size)
        if not block:
            raise FileChanged(f"{part.path} became shorter while it was being read")
        return block


def _size(segment: Segment) -> int:
    return len(segment) if isinstance(segment, bytes) else segment.size
