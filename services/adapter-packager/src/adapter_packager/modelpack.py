"""CNCF ModelPack 0.0.7: an artifact with one raw blob per file. A reader fetches what it wants by Range and unpacks nothing.

The specification has no notion of adapters, so the weights are `weight`, the config is `weight.config`, and our annotations
say that it is one. The files carry ORAS titles too: `oras pull` gives the same folder.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from adapter_packager.annotations import manifest_annotations
from adapter_packager.folder import Adapter
from kaito_api.adapter import CONFIG_FILE, WEIGHTS_FILE
from kaito_oci import Blob, BytesBlob, FileBlob, Member, media_types

_TYPES = {
    CONFIG_FILE: media_types.MODELPACK_WEIGHT_CONFIG_RAW,
    WEIGHTS_FILE: media_types.MODELPACK_WEIGHT_RAW,
}


def build(adapter: Adapter) -> tuple[list[Blob], bytes]:
    """Blobs (config first) and manifest."""
    files = [_blob(member) for member in adapter.members]
    config = {
        "descriptor": {
            key: value
            for key, value in (
                ("name", adapter.report.base_model),
                ("revision", adapter.report.base_revision),
                ("createdAt", adapter.report.finished_at),
            )
            if value
        },
        "config": {"format": "safetensors"},
        "modelfs": {"type": "layers", "diffIds": [file.descriptor.digest for file in files]},
    }
    settings = BytesBlob(msgspec.json.encode(config, order="sorted"), media_types.MODELPACK_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": media_types.MODELPACK_MANIFEST,
        "config": settings.descriptor,
        "layers": [file.descriptor for file in files],
        "annotations": manifest_annotations(adapter),
    }
    return [settings, *files], msgspec.json.encode(manifest, order="sorted")


def _blob(member: Member) -> Blob:
    notes = {media_types.TITLE: member.name, media_types.MODELPACK_FILEPATH: member.name}
    kind = _TYPES.get(member.name, media_types.MODELPACK_DOC_RAW)
    if isinstance(member.content, Path):
        return FileBlob(member.content, kind, notes)
    return BytesBlob(member.content, kind, notes)
