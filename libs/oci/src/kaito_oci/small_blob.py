"""A blob that fits into memory: the payload of a signature, a report on an image."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from kaito_oci.credentials import CredentialSource
from kaito_oci.download import BlobStream
from kaito_oci.errors import TooLarge
from kaito_oci.limits import MIB
from kaito_oci.manifest import Descriptor
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import ask
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
    name = Reference.of(reference)
    if blob.size > most:
        raise TooLarge(f"{name.name}, blob {blob.digest[:19]}: {blob.size} bytes, more than {most}")
    return await ask(
        name,
        lambda client: _read(client, blob),
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )


def _read(registry: HardenedRegistry, blob: Descriptor) -> bytes:
    content = bytearray()
    with closing(BlobStream(registry, blob)) as stream:
        while chunk := stream.read():
            content += chunk
    return bytes(content)
