"""A package: the blobs and the manifest over them, in one of the two formats."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from adapter_packager import image, modelpack
from adapter_packager.folder import Adapter
from kaito_oci import Blob


class Format(StrEnum):
    """How an adapter is laid out in the registry."""

    IMAGE = "image"
    """KAITO's: an image with /data; also usable as an image volume."""
    MODELPACK = "modelpack"
    """CNCF ModelPack: raw files, nothing to unpack."""


class Package(msgspec.Struct, frozen=True):
    """What is pushed."""

    blobs: list[Blob]
    manifest: bytes


def build(adapter: Adapter, layout: Format) -> Package:
    """Lay an adapter out. Reads the weights once, for their digest: call it in a worker thread."""
    make = modelpack.build if layout is Format.MODELPACK else image.build
    return Package(*make(adapter))
