"""KAITO's layout: an image whose only layer has the adapter under /data.

Uncompressed: weights hardly compress, and KAITO's puller (skopeo with --dest-decompress, then tar) reads it as well. No time,
host or owner goes in, so the same adapter gives the same digest anywhere.
"""

from __future__ import annotations

import msgspec

from adapter_packager.annotations import manifest_annotations
from adapter_packager.folder import Adapter
from kaito_oci import Blob, BytesBlob, TarBlob, media_types

_ROOT = "data"


def build(adapter: Adapter) -> tuple[list[Blob], bytes]:
    """Blobs (config first) and manifest."""
    members = [msgspec.structs.replace(member, name=f"{_ROOT}/{member.name}") for member in adapter.members]
    layer = TarBlob(members, media_types.OCI_LAYER_TAR)
    config = {
        # Data runs nowhere; the spec wants a platform, and image volumes are matched by it.
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.descriptor.digest]},
    }
    settings = BytesBlob(msgspec.json.encode(config, order="sorted"), media_types.OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": settings.descriptor,
        "layers": [layer.descriptor],
        "annotations": manifest_annotations(adapter),
    }
    return [settings, layer], msgspec.json.encode(manifest, order="sorted")
