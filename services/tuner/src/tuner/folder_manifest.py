"""A manifest with the digest of every file of a folder, written last: a folder without a true one is not whole."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to the folder."""

    key: str
    """Of what it was made from; the same input gives the same key."""
    files: dict[str, str]
    """Relative name -> sha256 in hex."""
    request: str = ""
    """Of a finished result: the request that it answers (job.request_key), "" where requests have no name."""


def seal(folder: Path, name: str, key: str, files: Sequence[str] | None = None, *, request: str = "") -> None:
    """Bring every file to the disk, then write the manifest `name` atomically. `files` None means all in the folder."""
    names = list(files) if files is not None else _names(folder, name)
    digests = {}
    for relative in names:
        with (folder / relative).open("rb") as file:
            digests[relative] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    partial = folder / f".{name}.partial"
    with partial.open("wb") as file:
        file.write(msgspec.json.encode(Manifest(key=key, files=digests, request=request)))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / name)
    sync_folder(folder)


def read(folder: Path, name: str) -> Manifest | None:
    """Return the manifest, None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / name).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def intact(folder: Path, manifest: Manifest) -> bool:
    """Whether every file is as the manifest says."""
    files = manifest.files.items()
    return bool(files) and all(_digest(folder / relative) == digest for relative, digest in files)


def whole(folder: Path, name: str, key: str) -> bool:
    """Whether the manifest is there, made for `key`, and every file is as it says."""
    manifest = read(folder, name)
    return manifest is not None and manifest.key == key and intact(folder, manifest)


def sync_folder(folder: Path) -> None:
    """Make renames in the folder survive a power cut, where the file system knows how to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _names(folder: Path, manifest: str) -> list[str]:
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name not in (manifest, f".{manifest}.partial"))
