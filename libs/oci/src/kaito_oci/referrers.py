"""Where a registry lists what refers to an image (its `subject`), and the list to keep where it keeps none.

OCI distribution spec 1.1, "Pushing Manifests with Subject" and "Referrers Tag Schema": a registry that knows about subjects
answers the push with OCI-Subject. For any other the client keeps an index under a tag made of the subject's digest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from kaito_oci import manifest as manifests
from kaito_oci.credentials import CredentialSource
from kaito_oci.errors import InvalidManifest, NotFound
from kaito_oci.limits import Limits
from kaito_oci.manifest import Descriptor, Index
from kaito_oci.media_types import OCI_INDEX
from kaito_oci.push import push
from kaito_oci.reference import Reference
from kaito_oci.session import manifest_of
from kaito_oci.settings import RegistrySettings


def fallback_tag(digest: str) -> str:
    """The tag of the index that lists what refers to `digest`."""
    algorithm, _, value = digest.partition(":")
    return f"{algorithm[:32]}-{value[:64]}"


async def list_referrer(
    subject: Reference,
    referrer: Descriptor,
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> None:
    """Add a manifest to the index of what refers to `subject` (by digest), unless it is there. Raises OciError.

    Who adds another at the same moment may win: registries have no condition for a push.
    """
    place = Reference(subject.registry, subject.repository, fallback_tag(subject.digest))
    try:
        raw, media_type = await manifest_of(place, auth=auth, plain_http_hosts=plain_http_hosts, settings=settings)
    except NotFound:
        content: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    else:
        index = manifests.parse(raw, media_type, Limits())
        if not isinstance(index, Index):
            raise InvalidManifest(f"{place} is no index of referrers")
        if referrer.digest in {entry.digest for entry in index.manifests}:
            return
        content = msgspec.json.decode(raw)  # with what others wrote and we do not know
    content["manifests"].append(referrer)
    await push(
        place,
        [],
        msgspec.json.encode(content),
        media_type=OCI_INDEX,
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )
