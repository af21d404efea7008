"""Manifests and indexes: parsed narrowly, checked against themselves, never trusted for more than they say."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kaito_oci import media_types
from kaito_oci.errors import InvalidManifest, UnsupportedMediaType
from kaito_oci.limits import Limits
from kaito_oci.reference import DIGEST


class Platform(msgspec.Struct, frozen=True, rename={"os_version": "os.version"}):
    """Platform of an index entry (OCI image index)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pointer to content: type, digest and size in bytes (OCI image spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    @property
    def title(self) -> str:
        """The file name that the packer noted on this blob, or ""."""
        notes = self.annotations or {}
        return notes.get(media_types.MODELPACK_FILEPATH) or notes.get(media_types.TITLE) or ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An image or artifact manifest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = ""
    artifact_type: str = ""
    annotations: dict[str, str] | None = None

    @property
    def is_image(self) -> bool:
        """Whether the layers stack up to a root file system (and are not the files of an artifact)."""
        return self.config.media_type in media_types.IMAGE_CONFIGS and not self.artifact_type


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A list of manifests, usually one per platform."""

    manifests: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = ""


class _Probe(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


_T = TypeVar("_T", Manifest, Index)


def parse(content: bytes, content_type: str, limits: Limits) -> Manifest | Index:
    """Decode a manifest or index. The body's own mediaType and the Content-Type must not contradict each other
    (distribution spec, CVE-2021-41190). Raises InvalidManifest or UnsupportedMediaType.
    """
    declared = content_type.partition(";")[0].strip().lower()
    try:
        probe = msgspec.json.decode(content, type=_Probe)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidManifest(f"the manifest is not valid JSON: {error}") from error
    if probe.schema_version != 2:
        raise UnsupportedMediaType(f"manifest schema {probe.schema_version} is not supported; only schema 2 is")
    known = media_types.MANIFESTS | media_types.INDEXES
    if probe.media_type and declared in known and probe.media_type != declared:
        raise InvalidManifest(f"the manifest says {probe.media_type!r}, its response says {declared!r}")
    if bytes(probe.manifests) and bytes(probe.layers):
        raise InvalidManifest("the manifest has both layers and manifests")
    kind = probe.media_type or (declared if declared in known else "")
    if not kind:
        kind = media_types.OCI_INDEX if bytes(probe.manifests) else media_types.OCI_MANIFEST
    if kind not in known:
        raise UnsupportedMediaType(f"manifest type {kind[:120]!r} is not supported")
    try:
        if kind in media_types.INDEXES:
            index = msgspec.json.decode(content, type=Index)
            return _checked(index, index.manifests, limits)
        manifest = msgspec.json.decode(content, type=Manifest)
        return _checked(manifest, (manifest.config, *manifest.layers), limits)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidManifest(f"the manifest does not have the expected fields: {error}") from error


def _checked(whole: _T, parts: tuple[Descriptor, ...], limits: Limits) -> _T:
    if len(parts) > limits.max_layers:
        raise InvalidManifest(f"the manifest lists {len(parts)} parts, more than {limits.max_layers}")
    for part in parts:
        if part.size < 0 or not DIGEST.fullmatch(part.digest):
            raise InvalidManifest(f"descriptor with digest {part.digest[:80]!r} and size {part.size} is not valid")
    return whole
