"""Writes directory trees as deterministic layer tars: sorted names, one date, user 0, digest taken while writing.

Equal trees give equal bytes on every machine. Permissions are normalised to what a non-root reader needs: the torch and
transformers packages write some files with mode 0600, which a container user could not open.
"""

import fnmatch
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from kaito_local.images.spec import EPOCH_SECONDS, LAYER, Blob

_CHUNK = 4 << 20


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A directory on disk and where it lands in the image.

    ``exclude`` holds shell patterns on the path relative to ``source`` (``*`` also crosses slashes). ``rewrite``
    replaces build-time paths in symbolic links and, for files whose relative path matches ``rewrite_in``, in their
    text.
    """

    source: Path
    prefix: str = ""
    exclude: tuple[str, ...] = ()
    rewrite: tuple[tuple[str, str], ...] = ()
    rewrite_in: tuple[str, ...] = ()


class DigestWriter(io.RawIOBase):
    """A write-only stream that hashes and counts what passes through it."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        """Always true: tarfile asks."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # tarfile passes bytes only
        """Pass data on."""
        self._hash.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)

    @property
    def digest(self) -> str:
        """The digest of everything written so far."""
        return f"sha256:{self._hash.hexdigest()}"


def write_layer(trees: list[Tree], target: BinaryIO) -> Blob:
    """Write the trees as one uncompressed layer and return its descriptor; later trees may not repeat a path."""
    writer = DigestWriter(target)
    seen: set[str] = set()
    with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as archive:
        for tree in trees:
            for parent in _parents(tree.prefix):
                if parent not in seen:
                    seen.add(parent)
                    archive.addfile(_header(parent, tarfile.DIRTYPE, 0o755))
            for relative, path in _walk(tree):
                _add(archive, tree, relative, path)
    return Blob(LAYER, writer.digest, writer.size)


def _parents(prefix: str) -> list[str]:
    parts = [part for part in prefix.split("/") if part]
    return ["/".join(parts[: index + 1]) for index in range(len(parts))]


def _walk(tree: Tree) -> Iterator[tuple[str, Path]]:
    """Every entry below the tree's root, sorted by path, without what is excluded."""
    pending = [""]
    while pending:
        directory = pending.pop()
        below: list[str] = []
        with os.scandir(tree.source / directory) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                relative = f"{directory}/{entry.name}" if directory else entry.name
                if any(fnmatch.fnmatchcase(relative, pattern) for pattern in tree.exclude):
                    continue
                yield relative, Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    below.append(relative)
        pending.extend(reversed(below))


def _add(archive: tarfile.TarFile, tree: Tree, relative: str, path: Path) -> None:
    name = f"{tree.prefix}/{relative}" if tree.prefix else relative
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        header = _header(name, tarfile.SYMTYPE, 0o777)
        header.linkname = _replace(str(path.readlink()), tree.rewrite)
        archive.addfile(header)
    elif stat.S_ISDIR(found.st_mode):
        sticky = found.st_mode & 0o1002
        archive.addfile(_header(name, tarfile.DIRTYPE, 0o1777 if sticky == 0o1002 else 0o755))
    elif stat.S_ISREG(found.st_mode):
        header = _header(name, tarfile.REGTYPE, 0o755 if found.st_mode & 0o111 else 0o644)
        if tree.rewrite and any(fnmatch.fnmatchcase(relative, pattern) for pattern in tree.rewrite_in):
            data = _rewritten(path, tree.rewrite)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
            return
        header.size = found.st_size
        with path.open("rb") as source:
            archive.addfile(header, source)
    # Devices, sockets and pipes have no place in an image: the runtime makes /dev.


def _rewritten(path: Path, rewrite: tuple[tuple[str, str], ...]) -> bytes:
    data = path.read_bytes()
    try:
        return _replace(data.decode(), rewrite).encode()
    except UnicodeDecodeError:
        return data  # a program among the scripts


def _replace(text: str, rewrite: tuple[tuple[str, str], ...]) -> str:
    for old, new in rewrite:
        text = text.replace(old, new)
    return text


def _header(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = kind
    header.mode = mode
    header.mtime = EPOCH_SECONDS
    header.uid = header.gid = 0
    header.uname = header.gname = ""
    return header
