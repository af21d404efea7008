"""Pushing blobs and the manifest over them; proving beforehand that it will be allowed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from kaito_oci import refusal
from kaito_oci.blobs import Blob
from kaito_oci.credentials import CredentialSource
from kaito_oci.digest import sha256
from kaito_oci.errors import DigestMismatch, NotFound, OciError, TagImmutable
from kaito_oci.media_types import OCI_MANIFEST
from kaito_oci.operation import in_thread
from kaito_oci.progress import Meter, ProgressCallback
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import ask, open_session
from kaito_oci.settings import RegistrySettings
from kaito_oci.upload import prove_rights, upload

_PUSH = "pull,push"
_MAYBE_IMMUTABLE = frozenset({400, 403, 405, 409, 412})


class PushResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a push left in the registry."""

    reference: str
    """`repo@digest`."""
    digest: str
    size: int
    """Bytes of all blobs and the manifest."""
    uploaded: int
    """Bytes that had to be sent; the other blobs were there."""
    subject_known: bool = False
    """Whether the registry lists this manifest among its subject's referrers (it answered with OCI-Subject)."""


async def push(
    reference: str | Reference,
    blobs: Sequence[Blob],
    manifest: bytes,
    *,
    media_type: str = OCI_MANIFEST,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    progress: ProgressCallback | None = None,
    settings: RegistrySettings | None = None,
) -> PushResult:
    """Bring the blobs (config first or last, as the caller likes) and then the manifest to the registry.

    Blobs that are there are not sent. Pushing the same again changes nothing and sends nothing but the manifest. The tag moves
    only after every blob is stored. Raises OciError; TagImmutable when only the tag was refused.
    """
    name = Reference.of(reference)
    total, sent = sum(blob.descriptor.size for blob in blobs), 0
    meter = Meter(progress, total)
    session = open_session(name, prove_rights, auth=auth, plain_http_hosts=plain_http_hosts, settings=settings)
    async with session as (operation, registry, _):
        for blob in {blob.descriptor.digest: blob for blob in blobs}.values():
            if await in_thread(operation, upload, registry, blob, meter.add):
                sent += blob.descriptor.size
        digest, known = await in_thread(operation, _put_manifest, registry, manifest, media_type)
    pinned = str(name.pinned(digest))
    size = total + len(manifest)
    return PushResult(reference=pinned, digest=digest, size=size, uploaded=sent, subject_known=known)


async def check_push(
    reference: str | Reference,
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> None:
    """Prove that a push would be allowed, by opening an upload and cancelling it. Raises OciError with the reason if not."""
    name = Reference.of(reference)
    await ask(name, prove_rights, auth=auth, plain_http_hosts=plain_http_hosts, settings=settings)


def _put_manifest(registry: HardenedRegistry, manifest: bytes, media_type: str) -> tuple[str, bool]:
    """Digest, and whether the registry took note of the subject."""
    digest, target = sha256(manifest), registry.reference.target
    what = f"{registry.reference.name}, manifest {target}"
    headers = {"Content-Type": media_type}
    response = registry.do_request(
        registry.url(f"manifests/{target}"), "PUT", data=manifest, headers=headers, actions=_PUSH
    )
    with response:
        if response.status_code != 201:
            raise _refused(registry, refusal.error(response, what), response.status_code, digest)
    stated = response.headers.get("Docker-Content-Digest", digest)
    if stated.startswith("sha256:") and stated != digest:
        raise DigestMismatch(f"{what}: the registry stored {stated} instead of {digest}")
    return digest, "OCI-Subject" in response.headers


def _refused(registry: HardenedRegistry, problem: OciError, status: int, digest: str) -> OciError:
    """Registries refuse to move a tag in five different ways; that the tag is there with another digest is what they share."""
    reference = registry.reference
    if status not in _MAYBE_IMMUTABLE or not reference.tag or reference.digest:
        return problem
    try:
        present = registry.head_manifest(reference.tag)
    except NotFound:
        return problem
    if not present or present == digest:
        return problem
    return TagImmutable(
        f"the tag {reference.tag} of {reference.name} exists with {present} and the registry does not let it move "
        f"(all blobs are uploaded): push under a new tag. {problem}"
    )
