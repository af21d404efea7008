"""The builder's content-addressed cache: blobs by digest, and a memory of which inputs gave which layer."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from kaito_local.images.spec import Blob, blob_of


class BlobStore:
    """Blobs under ``root/blobs/sha256``, layer memory under ``root/keys``.

    Everything is written to a temporary name and renamed, so an interrupted build leaves nothing half-made behind, and
    two builds at once do no harm.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._keys = root / "keys"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._keys.mkdir(parents=True, exist_ok=True)

    def path(self, blob: Blob) -> Path:
        """Where a blob's bytes are."""
        return self._blobs / blob.digest.removeprefix("sha256:")

    def has(self, blob: Blob) -> bool:
        """Whether the blob is here with its full size."""
        try:
            return self.path(blob).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    def put(self, media_type: str, data: bytes) -> Blob:
        """Keep a small document."""
        blob = blob_of(media_type, data)
        if not self.has(blob):
            _write_whole(self.path(blob), lambda target: target.write(data))
        return blob

    def remembered(self, key: str) -> Blob | None:
        """The layer that these inputs gave before, if it is still here."""
        try:
            blob = msgspec.json.decode((self._keys / f"{key}.json").read_bytes(), type=Blob)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return blob if self.has(blob) else None

    def layer(self, key: str, make: Callable[[BinaryIO], Blob]) -> Blob:
        """The layer for these inputs: the remembered one, or what ``make`` writes."""
        known = self.remembered(key)
        if known:
            return known
        with tempfile.NamedTemporaryFile(dir=self._blobs, prefix=".new-", delete=False) as target:
            scratch = Path(target.name)
            try:
                blob = make(cast(BinaryIO, target.file))
                target.flush()
            except BaseException:
                scratch.unlink()
                raise
        scratch.chmod(0o644)
        scratch.replace(self.path(blob))
        _write_whole(self._keys / f"{key}.json", lambda keyfile: keyfile.write(msgspec.json.encode(blob)))
        return blob

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """A scratch folder on the same disk, removed afterwards."""
        stages = self.root / "stages"
        stages.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=stages))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def share(self, blob: Blob, twin: Path) -> bool:
        """Let the store and an identical file elsewhere use the same disk blocks; false where the disks differ."""
        place = self.path(blob)
        if not twin.exists() or twin.samefile(place):
            return twin.exists()
        scratch = place.with_name(f".twin-{os.getpid()}-{place.name}")
        try:
            scratch.hardlink_to(twin)
        except OSError:  # another file system
            return False
        scratch.replace(place)
        return True

    def prune(self, keep: set[str]) -> int:
        """Remove blobs and layer memory outside ``keep`` (digests); returns the bytes freed."""
        freed = 0
        for path in self._blobs.iterdir():
            if not path.name.startswith(".") and f"sha256:{path.name}" not in keep:
                freed += path.stat().st_size
                path.unlink()
        for path in self._keys.iterdir():
            if msgspec.json.decode(path.read_bytes(), type=Blob).digest not in keep:
                path.unlink()
        return freed


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as target:
        write(cast(BinaryIO, target.file))
    Path(target.name).chmod(0o644)
    Path(target.name).replace(path)
