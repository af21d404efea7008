"""Signing what is about to be pushed, and looking for a signature on what is in a registry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import kaito_oci
from adapter_packager import signature, signing_key
from adapter_packager.access import Access
from adapter_packager.exits import SignatureProblem
from kaito_oci import CredentialSource, Descriptor, Reference, RegistrySettings, errors, media_types
from kaito_oci.digest import sha256

_MOST_PAYLOAD: Final = 64 * 1024
_MOST_SIGNATURES: Final = 100
"""Of one adapter that are looked at. Whoever may push here could add any number."""


async def check_key(path: Path) -> None:
    """Prove that the key can sign. Raises SigningKeyProblem."""
    await asyncio.to_thread(signing_key.read_private, path)


async def sign(reference: Reference, manifest: bytes, key: Path, access: Access) -> Reference:
    """Put the signature of an adapter's manifest beside it; return where it lies. Raises SigningKeyProblem, OciError.

    The manifest need not be there yet: signed first, an adapter is never seen without its signature (a registry accepts a
    subject that does not exist, OCI distribution spec 1.1). Other signatures of the same adapter stay.
    """
    private = await asyncio.to_thread(signing_key.read_private, key)
    subject = Descriptor(media_type=media_types.OCI_MANIFEST, digest=sha256(manifest), size=len(manifest))
    content = signature.payload(reference, subject.digest)
    where = signature.place(reference, subject.digest)
    auth = await access.credentials(reference)
    try:
        present = (await kaito_oci.inspect(where, auth=auth, settings=access.settings)).manifest.layers
    except errors.NotFound:
        present = ()
    made = signature.manifest(content, signing_key.sign(private, content), subject, present)
    result = await kaito_oci.push(where, made.blobs, made.manifest, auth=auth, settings=access.settings)
    if not result.subject_known:
        entry = Descriptor(
            media_type=media_types.OCI_MANIFEST,
            digest=result.digest,
            size=len(made.manifest),
            artifact_type=signature.ARTIFACT_TYPE,
        )
        pinned = reference.pinned(subject.digest)
        await kaito_oci.list_referrer(pinned, entry, auth=auth, settings=access.settings)
    return where


async def require_signature(reference: Reference, key: Path, access: Access) -> Reference:
    """Return the reference by the digest that this key has signed. Raises SignatureProblem, SigningKeyProblem, OciError."""
    public = await asyncio.to_thread(signing_key.read_public, key)
    auth = await access.credentials(reference)
    digest = await kaito_oci.resolve(reference, auth=auth, settings=access.settings)
    where = signature.place(reference, digest)
    try:
        layers = (await kaito_oci.inspect(where, auth=auth, settings=access.settings)).manifest.layers
    except errors.NotFound as error:
        message = f"{reference.pinned(digest)} is not signed: there is no {where}"
        raise SignatureProblem("SignatureMissing", message) from error
    for layer, text in signature.signatures(layers)[:_MOST_SIGNATURES]:
        content = await _payload(where, layer, auth, access.settings)
        if signing_key.is_signed_by(public, content, text) and signature.says(content, digest):
            return reference.pinned(digest)
    message = f"{reference.pinned(digest)} is signed, but not by the key {key}: do not use it, or verify with its key"
    raise SignatureProblem("SignatureInvalid", message)


async def _payload(where: Reference, layer: Descriptor, auth: CredentialSource, settings: RegistrySettings) -> bytes:
    """The bytes that were signed; nothing where they cannot be had: another signature may still hold."""
    try:
        return await kaito_oci.read_blob(where, layer, most=_MOST_PAYLOAD, auth=auth, settings=settings)
    except (errors.NotFound, errors.DigestMismatch, errors.TooLarge):
        return b""
