"""Streams images as one OCI archive, straight from the blob store, as ``ctr images import`` reads it."""

import io
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from kaito_local.images.blobs import BlobStore
from kaito_local.images.spec import EPOCH_SECONDS, Image, canonical, index_document


def write_archive(
    store: BlobStore, images: list[Image], prefix: str, target: BinaryIO, present: Collection[str] = ()
) -> int:
    """Write the archive and return the number of blob bytes in it.

    ``present`` names digests that the receiver already holds; their bytes are left out, so that a changed service costs
    its thin layer only and not the 6 GB below it.
    """
    written: set[str] = set(present)
    total = 0
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=4 << 20) as archive:
        for image in images:
            for blob in image.blobs:
                if blob.digest not in written:
                    written.add(blob.digest)
                    total += blob.size
                    with store.path(blob).open("rb") as source:
                        _add(archive, f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", source, blob.size)
        index = index_document([(image.reference(prefix), image.manifest) for image in images])
        layout = canonical({"imageLayoutVersion": "1.0.0"})
        _add(archive, "index.json", io.BytesIO(index), len(index))
        _add(archive, "oci-layout", io.BytesIO(layout), len(layout))
    return total


def write_layout(store: BlobStore, images: list[Image], prefix: str, folder: Path) -> None:
    """Write an OCI image layout folder; blobs are hard links where the disk allows."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    for image in images:
        for blob in image.blobs:
            place = blobs / blob.digest.removeprefix("sha256:")
            if not place.exists():
                _link_or_copy(store.path(blob), place)
    index = index_document([(image.reference(prefix), image.manifest) for image in images])
    (folder / "index.json").write_bytes(index)
    (folder / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))


def _link_or_copy(source: Path, place: Path) -> None:
    try:
        place.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, place)


def _add(archive: tarfile.TarFile, name: str, source: BinaryIO, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    header.mode = 0o644
    header.mtime = EPOCH_SECONDS
    archive.addfile(header, source)
