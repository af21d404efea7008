"""What a tag means now, without fetching anything behind it."""

from __future__ import annotations

from collections.abc import Collection

from kaito_oci.credentials import CredentialSource
from kaito_oci.limits import Limits
from kaito_oci.manifest import Platform
from kaito_oci.platforms import this_machine
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import Image, ask, read_image
from kaito_oci.settings import RegistrySettings


async def resolve(
    reference: str | Reference,
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> str:
    """The digest that the reference has now: one HEAD request, or the digest itself (no request) where the reference is pinned.

    The answer is the registry's word; pulling `repo@digest` is what verifies it. Raises OciError.
    """
    name = Reference.of(reference)
    if name.digest:
        return name.digest

    def digest(client: HardenedRegistry) -> str:
        return client.head_manifest(name.target) or client.read_manifest(name.target, Limits())[2]

    return await ask(name, digest, auth=auth, plain_http_hosts=plain_http_hosts, settings=settings)


async def inspect(
    reference: str | Reference,
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    platform: Platform | None = None,
    settings: RegistrySettings | None = None,
) -> Image:
    """The verified manifest behind a reference, for this machine where it is an index. Raises OciError."""
    return await ask(
        Reference.of(reference),
        lambda client: read_image(client, platform or this_machine(), Limits()),
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )
