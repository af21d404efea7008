"""Layers of an image, applied one after the other to a folder that nobody but us writes to.

What comes out is folders and regular files and nothing else: modes are 0755 and 0644, the owner is us, links within the tree
become hard links to the file that they mean. An archive that names anything outside of its tree, a device, or a link out is
refused whole.
"""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kaito_oci.download import disk_errors
from kaito_oci.errors import NotFound, TooLarge, UnsafeArchive
from kaito_oci.limits import Limits
from kaito_oci.operation import CURRENT
from kaito_oci.tar import FILE, FOLDER, HARD_LINK, SYMLINK, Entry, Reader, Source

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_PATH = 4096
_MAX_NAME = 255
_MAX_DEPTH = 64
_MAX_LINK_HOPS = 40
_MAX_ENTRIES = 2_000_000  # of a layer, counting what lies outside of the wanted path; large base images have 100,000


class Unpacker:
    """Unpacks the part of an image under `path` (the whole image where it is "") into `root`, which must be ours alone."""

    def __init__(self, root: Path, path: str, limits: Limits) -> None:
        self._root = root
        self._path = clean(path, "the path in the image")
        self._limits = limits
        self._links: dict[str, str] = {}
        self._written: set[str] = set()
        self._bytes = 0
        self._count = 0

    def apply(self, source: Source) -> None:
        """Unpack one layer (image spec, layer.md): its whiteouts hide what lower layers brought, never what it brings itself."""
        self._written = set()
        operation = CURRENT.get()
        reader = Reader(source)
        for count, entry in enumerate(reader):
            operation.check()
            if count > _MAX_ENTRIES:
                raise TooLarge(f"the layer has more than {_MAX_ENTRIES} entries")
            name = clean(entry.name, "a layer entry")
            inside = self._inside(name)
            if inside is None:
                continue
            with disk_errors(self._root):
                self._entry(entry, inside, reader)

    def finish(self) -> None:
        """Turn the links that the layers left into files. Raises UnsafeArchive, and NotFound where the path is not there."""
        for link, target in sorted(self._links.items()):
            found = self._root / self._resolve(link, target)
            if not found.is_file():
                raise UnsafeArchive(f"{link!r} is a link to {target!r}, which is not a file of this tree")
            place = self._place(link)
            os.link(found, place)
        if not any(self._root.iterdir()):
            where = f"under /{self._path} " if self._path else ""
            raise NotFound(f"the image has no file {where}")

    def _inside(self, name: str) -> str | None:
        """The name relative to the wanted path, or None for what lies elsewhere."""
        if not self._path:
            return name or None
        if name.startswith(f"{self._path}/"):
            return name[len(self._path) + 1 :]
        # A whiteout of the wanted folder itself, or of a parent, empties it.
        folder, base = posixpath.split(name)
        hidden = posixpath.join(folder, base.removeprefix(_WHITEOUT)) if base.startswith(_WHITEOUT) else None
        covers = folder if base == _OPAQUE else hidden
        if covers is not None and f"{self._path}/".startswith(f"{covers}/" if covers else ""):
            self._hide_all()
        return None

    def _entry(self, entry: Entry, name: str, reader: Reader) -> None:
        folder, base = posixpath.split(name)
        self._grow()
        if base.startswith(_WHITEOUT):
            self._whiteout(folder, base)
            return
        if entry.kind == FOLDER:
            self._folder(name)
        elif entry.kind == FILE:
            self._file(entry, name, reader)
        elif entry.kind == HARD_LINK:
            self._hard_link(entry, name)
        elif entry.kind == SYMLINK:
            self._forget(name)
            self._links[name] = entry.link
        else:
            raise UnsafeArchive(f"{name!r} is a {entry.kind}; only files and folders are unpacked")
        self._mark(name)

    def _mark(self, name: str) -> None:
        while name and name not in self._written:
            self._written.add(name)
            name = posixpath.dirname(name)

    def _grow(self) -> None:
        self._count += 1
        if self._count > self._limits.max_files:
            raise TooLarge(f"the image has more than {self._limits.max_files} files")

    def _folder(self, name: str) -> None:
        target = self._root / name
        if target.is_dir() and name not in self._links:
            return
        self._forget(name)
        self._place(f"{name}/x")

    def _file(self, entry: Entry, name: str, reader: Reader) -> None:
        self._bytes += entry.size
        if self._bytes > self._limits.max_bytes:
            raise TooLarge(f"the image is larger than {self._limits.max_bytes} bytes")
        self._forget(name)
        mode = 0o755 if entry.mode & 0o111 else 0o644
        handle = os.open(self._place(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(handle, "wb", buffering=0) as file:
            os.fchmod(file.fileno(), mode)
            for chunk in reader.chunks():
                write_all(file.fileno(), chunk)

    def _hard_link(self, entry: Entry, name: str) -> None:
        target = self._inside(clean(entry.link, "a hard link"))
        if target is None:
            raise UnsafeArchive(f"{name!r} is a hard link to {entry.link!r}, outside of the tree")
        found = self._root / target
        if target in self._links:
            self._forget(name)
            self._links[name] = "/" + posixpath.join(self._path, target)
            return
        if not found.is_file():
            raise UnsafeArchive(f"{name!r} is a hard link to {entry.link!r}, which is not there")
        if target == name:
            return
        self._forget(name)
        os.link(found, self._place(name))

    def _whiteout(self, folder: str, base: str) -> None:
        if base == _OPAQUE:
            prefix = f"{folder}/" if folder else ""
            for name in [*self._tree(folder), *self._links]:
                if name.startswith(prefix) and name not in self._written:
                    self._forget(name)
            return
        hidden = posixpath.join(folder, base.removeprefix(_WHITEOUT))
        name = clean(hidden, "a whiteout")
        if name and name not in self._written:
            self._forget(name)

    def _tree(self, folder: str) -> Iterator[str]:
        for place, folders, files in os.walk(self._root / folder, topdown=False):
            for base in (*files, *folders):
                yield Path(place, base).relative_to(self._root).as_posix()

    def _hide_all(self) -> None:
        for name in [*self._tree(""), *self._links]:
            if name not in self._written:
                self._forget(name)

    def _forget(self, name: str) -> None:
        """Remove what has this name now, and what lay under it."""
        if self._links:
            under = f"{name}/"
            self._links = {link: to for link, to in self._links.items() if link != name and not link.startswith(under)}
        target = self._root / name
        if target.is_dir():
            shutil.rmtree(target)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):  # a parent may be a file: `_place` makes it give way
                target.unlink()

    def _place(self, name: str) -> Path:
        """The path to write `name` at, its parents made. A parent that is a file gives way; one that is a link is refused."""
        parent = self._root
        parts = name.split("/")[:-1]
        for depth, part in enumerate(parts, start=1):
            if "/".join(parts[:depth]) in self._links:
                raise UnsafeArchive(f"{name!r} lies behind a link")
            parent = parent / part
            if not parent.is_dir():
                self._grow()
                parent.unlink(missing_ok=True)
                parent.mkdir(mode=0o755)
                parent.chmod(0o755)
        return self._root / name

    def _resolve(self, link: str, target: str) -> str:
        """Follow a link by names alone, within the image. Raises UnsafeArchive when it leaves or never ends."""
        for _ in range(_MAX_LINK_HOPS):
            base = posixpath.join(self._path, posixpath.dirname(link))
            joined = posixpath.normpath(posixpath.join("/", base, target)).lstrip("/")
            inside = self._inside(joined) if self._path else joined or None
            if inside is None:
                raise UnsafeArchive(f"{link!r} is a link to {target!r}, outside of the tree")
            if inside not in self._links:
                return inside
            link, target = inside, self._links[inside]
        raise UnsafeArchive(f"{link!r} is a link that leads in circles")


def clean(name: str, what: str) -> str:
    """A relative path in normal form, "" for the root. Raises UnsafeArchive for anything that tries to climb."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    encoded = [os.fsencode(part) if "\0" not in part else b"" for part in parts]
    if ".." in parts:
        raise UnsafeArchive(f"{what} is named {name!r}, which leaves its folder")
    long = sum(map(len, encoded)) + len(parts) > _MAX_PATH or len(parts) > _MAX_DEPTH
    if b"" in encoded or long or any(len(part) > _MAX_NAME for part in encoded):
        raise UnsafeArchive(f"{what} has a name that no file can have: {name[:80]!r}")
    return "/".join(parts)


def write_all(handle: int, content: bytes) -> None:
    """Write every byte: a single write to a file may be short on a full disk or a signal."""
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]
