"""What each layer of a manifest becomes on disk: a part of a tree, or one file. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from kaito_oci import media_types
from kaito_oci.errors import InvalidManifest, UnsupportedMediaType
from kaito_oci.manifest import Descriptor, Manifest
from kaito_oci.unpack import clean

_ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".gz", ".tar", ".tar.zst", ".zst")


class Shape(StrEnum):
    """How a blob is stored."""

    TREE = "tree"
    FILE = "file"


class Content(msgspec.Struct, frozen=True):
    """One blob and what to do with it."""

    blob: Descriptor
    shape: Shape
    name: str = ""
    """Relative path of a FILE."""
    compression: str = ""
    """Of a TREE: "", "gzip" or "zstd"."""


def plan(manifest: Manifest) -> list[Content]:
    """The contents in the order of the layers. Raises UnsupportedMediaType, InvalidManifest, UnsafeArchive (a bad name)."""
    contents = [_content(layer, manifest) for layer in manifest.layers if layer.media_type != media_types.OCI_EMPTY]
    if not contents:
        raise UnsupportedMediaType("the manifest has no layers: there is nothing to pull")
    names = [content.name for content in contents if content.shape is Shape.FILE]
    if len(set(names)) != len(names):
        raise InvalidManifest("two layers of the artifact have the same file name")
    return contents


def _content(layer: Descriptor, manifest: Manifest) -> Content:
    compression = media_types.image_layer_compression(layer.media_type)
    if layer.media_type.startswith(media_types.MODELPACK_PREFIX):
        return _modelpack(layer)
    if compression is not None and (manifest.is_image or not layer.title or _is_folder(layer)):
        return Content(layer, Shape.TREE, "", compression)
    if not layer.title:
        raise UnsupportedMediaType(
            f"layer type {layer.media_type[:120]!r} is not supported and the layer names no file"
        )
    return _file(layer)


def _is_folder(layer: Descriptor) -> bool:
    """Whether ORAS packed a folder: its CLI says so in an annotation, oras-py by the gzip type alone."""
    if (layer.annotations or {}).get(media_types.ORAS_UNPACK) == "true":
        return True
    return layer.media_type == media_types.OCI_LAYER_GZIP and not layer.title.endswith(_ARCHIVE_ENDINGS)


def _modelpack(layer: Descriptor) -> Content:
    kind = layer.media_type.rpartition(".")[2]
    archives = {"tar": "", "tar+gzip": "gzip", "tar+zstd": "zstd"}
    if kind in archives:
        return Content(layer, Shape.TREE, "", archives[kind])
    if kind != "raw" or not layer.title:
        raise UnsupportedMediaType(
            f"ModelPack layer type {layer.media_type[:120]!r} is not supported, or names no file"
        )
    return _file(layer)


def _file(layer: Descriptor) -> Content:
    name = clean(layer.title, "a layer")
    if not name:
        raise InvalidManifest("a layer's file name is empty")
    return Content(layer, Shape.FILE, name)
