"""A blob that fits into memory: the payload of a signature, a report on an image."""

from __future__ import annotations

from collections.abc import Collection

from kaito_oci.credentials import Anonymous, CredentialSource
from kaito_oci.download import BlobStream
from kaito_oci.errors import TooLarge
from kaito_oci.limits import MIB
from kaito_oci.manifest import Descriptor
from kaito_oci.operation import Operation, in_thread
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import connect, effective
from kaito_oci.settings import RegistrySettings

_MOST = 4 * MIB


async def read_blob(
    reference: str | Reference,
    blob: Descriptor,
    *,
    most: int = _MOST,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> bytes:
    """All bytes of a blob in the reference's repository, verified. Raises TooLarge above `most` bytes, OciError."""
    name = reference if isinstance(reference, Reference) else Reference.parse(reference)
    if blob.size > most:
        raise TooLarge(f"{name.name}, blob {blob.digest[:19]}: {blob.size} bytes, more than {most}")
    client, content = await in_thread(
        Operation(),
        connect,
        name,
        auth or Anonymous(),
        effective(settings, plain_http_hosts),
        lambda registry: _read(registry, blob),
    )
    client.session.close()
    return content


def _read(registry: HardenedRegistry, blob: Descriptor) -> bytes:
    content = bytearray()
    stream = BlobStream(registry, blob)
    try:
        while chunk := stream.read():
            content += chunk
    finally:
        stream.close()
    return bytes(content)
