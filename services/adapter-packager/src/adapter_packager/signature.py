"""What is signed and how it lies in a registry, as cosign has it. Pure.

Sources: cosign's SIGNATURE_SPEC.md (sigstore/cosign, specs/): the payload is Red Hat's simple signing, stored as a layer of a
manifest under the tag `sha256-<digest>.sig`, the signature is an annotation on that layer, one layer for each signature. The same
manifest carries `subject` and cosign's artifact type (internal/pkg/oci/remote there), so that it is a referrer of the adapter too
(OCI image spec 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kaito_oci import Blob, BytesBlob, Descriptor, Reference, media_types

PAYLOAD_TYPE: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT_TYPE: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
SIGNATURE: Final = "dev.cosignproject.cosign/signature"
_KIND: Final = "cosign container image signature"


class _Identity(msgspec.Struct, frozen=True):
    reference: str = msgspec.field(name="docker-reference", default="")


class _Image(msgspec.Struct, frozen=True):
    digest: str = msgspec.field(name="docker-manifest-digest", default="")


class _Critical(msgspec.Struct, frozen=True):
    identity: _Identity = _Identity()
    image: _Image = _Image()
    kind: str = msgspec.field(name="type", default="")


class _Payload(msgspec.Struct, frozen=True):
    critical: _Critical = _Critical()
    optional: dict[str, Any] | None = None


class Signed(msgspec.Struct, frozen=True):
    """A manifest with signatures, and the small blobs under it."""

    blobs: list[Blob]
    manifest: bytes


def place(reference: Reference, digest: str) -> Reference:
    """Where the signatures of `digest` lie: a tag in the same repository."""
    return Reference(reference.registry, reference.repository, digest.replace(":", "-") + ".sig")


def payload(reference: Reference, digest: str) -> bytes:
    """The bytes that are signed."""
    critical = _Critical(_Identity(reference.name), _Image(digest), _KIND)
    return msgspec.json.encode(_Payload(critical))


def says(content: bytes, digest: str) -> bool:
    """Whether a signed payload is about `digest`. The name in it does not count (a mirror keeps its signatures)."""
    try:
        critical = msgspec.json.decode(content, type=_Payload).critical
    except (msgspec.MsgspecError, RecursionError):
        return False
    return critical.kind == _KIND and critical.image.digest == digest


def signatures(layers: Sequence[Descriptor]) -> list[tuple[Descriptor, str]]:
    """Each payload with its signature; other layers are none of ours."""
    found = ((layer, (layer.annotations or {}).get(SIGNATURE, "")) for layer in layers)
    return [(layer, text) for layer, text in found if layer.media_type == PAYLOAD_TYPE and text]


def manifest(content: bytes, text: str, subject: Descriptor, present: Sequence[Descriptor]) -> Signed:
    """The manifest with the signature `text` over `content` besides those that are `present` (others' signatures stay)."""
    blob = BytesBlob(content, PAYLOAD_TYPE, {SIGNATURE: text})
    same = any(layer.digest == blob.descriptor.digest and known == text for layer, known in signatures(present))
    layers = [*present] if same else [*present, blob.descriptor]
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    about = {"architecture": "", "os": "", "config": {}, "rootfs": rootfs}
    config = BytesBlob(msgspec.json.encode(about, order="sorted"), media_types.OCI_CONFIG)
    whole = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": config.descriptor,
        "layers": layers,
        "subject": subject,
    }
    return Signed([config, blob], msgspec.json.encode(whole, order="sorted"))
