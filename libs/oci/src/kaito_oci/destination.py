"""The folder that a pull fills: staged beside or inside of it, published by rename, recognised when it is already there."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from kaito_oci.errors import DestinationInUse

MARKER = ".oci-pull.json"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The marker: what an earlier pull put into the folder. `complete` is set last."""

    digest: str
    path: str
    files: dict[str, int]
    """Relative name -> size in bytes."""
    complete: bool


class Destination:
    """`folder` may be absent (it then appears in one rename) or an existing folder, like the mount point of a volume."""

    def __init__(self, folder: Path, digest: str, path: str) -> None:
        self._folder = folder
        self._digest = digest
        self._path = path
        self._inside = folder.is_dir()
        short = digest.partition(":")[2][:16]
        self.staging = folder / f".pull-{short}" if self._inside else folder.with_name(f".{folder.name}.pull-{short}")

    def already(self) -> Stored | None:
        """The marker of an earlier pull of the same digest and path whose files are all still there."""
        stored = self._marker()
        if stored is None or not stored.complete or (stored.digest, stored.path) != (self._digest, self._path):
            return None
        for name, size in stored.files.items():
            file = self._folder / name
            if not file.is_file() or file.stat().st_size != size:
                return None
        return stored

    def prepare(self) -> Path:
        """An empty or resumable staging folder; those of other digests are removed."""
        if self._inside:
            for stale in self._folder.glob(".pull-*"):
                if stale != self.staging:
                    shutil.rmtree(stale, ignore_errors=True)
        else:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
        self.staging.mkdir(exist_ok=True)
        return self.staging

    def publish(self, tree: Path) -> Stored:
        """Move what was staged in `tree` to the folder. Raises DestinationInUse where a stranger's file is in the way."""
        files = {
            file.relative_to(tree).as_posix(): file.stat().st_size for file in sorted(tree.rglob("*")) if file.is_file()
        }
        for folder in (tree, *(item for item in tree.rglob("*") if item.is_dir())):
            folder.chmod(0o755)  # whatever the umask: the reader may be another user
        stored = Stored(digest=self._digest, path=self._path, files=files, complete=True)
        if not self._inside:
            _write(tree / MARKER, stored)
            tree.replace(self._folder)
        else:
            self._merge(tree, stored)
        shutil.rmtree(self.staging, ignore_errors=True)
        return stored

    def discard(self) -> None:
        """Remove what was staged."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _merge(self, tree: Path, stored: Stored) -> None:
        earlier = self._marker()
        for name in earlier.files if earlier else ():
            (self._folder / name).unlink(missing_ok=True)
        for item in sorted(tree.iterdir()):
            target = self._folder / item.name
            if target.is_dir() and not target.is_symlink() and not any(file.is_file() for file in target.rglob("*")):
                shutil.rmtree(target)
            if target.exists() or target.is_symlink():
                raise DestinationInUse(
                    f"{target} is in the way and was not put there by an earlier pull; empty the folder"
                )
        # Named before they are moved: a pull that dies in between finds its own files again.
        _write(self._folder / MARKER, msgspec.structs.replace(stored, complete=False))
        for item in sorted(tree.iterdir()):
            item.replace(self._folder / item.name)
        _write(self._folder / MARKER, stored)

    def _marker(self) -> Stored | None:
        try:
            return msgspec.json.decode((self._folder / MARKER).read_bytes(), type=Stored)
        except (OSError, msgspec.MsgspecError):
            return None


def _write(file: Path, stored: Stored) -> None:
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_bytes(msgspec.json.encode(stored))
    temporary.replace(file)
