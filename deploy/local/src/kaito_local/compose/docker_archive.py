"""Images in the form that every `docker load` reads: the one of `docker save`, which is older than OCI layouts."""

import io
import tarfile
from pathlib import Path
from typing import BinaryIO

from kaito_local.images.spec import EPOCH_SECONDS, Blob, Runtime, canonical, config_document


def write_docker_archive(
    target: BinaryIO, reference: str, runtime: Runtime, layers: dict[str, tuple[Blob, Path]]
) -> None:
    """Writes one image; `layers` by what they hold, each with the file of its uncompressed tar."""
    blobs = tuple(blob for blob, _ in layers.values())
    config = config_document(runtime, blobs, tuple(layers))
    names = [f"{blob.digest.removeprefix('sha256:')}/layer.tar" for blob in blobs]
    manifest = canonical([{"Config": "config.json", "RepoTags": [reference], "Layers": names}])
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, "config.json", io.BytesIO(config), len(config))
        for name, (blob, path) in zip(names, layers.values(), strict=True):
            with path.open("rb") as source:
                _add(archive, name, source, blob.size)
        _add(archive, "manifest.json", io.BytesIO(manifest), len(manifest))


def _add(archive: tarfile.TarFile, name: str, source: BinaryIO, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.mode, header.mtime = size, 0o644, EPOCH_SECONDS
    archive.addfile(header, source)
