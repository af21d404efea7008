"""Opening an image: the right credentials, the manifest verified, the platform chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from kaito_oci import manifest as manifests
from kaito_oci.credentials import Anonymous, CredentialSource
from kaito_oci.errors import Denied, InvalidManifest, NotFound, Unauthorized
from kaito_oci.limits import Limits
from kaito_oci.manifest import Index, Manifest, Platform
from kaito_oci.operation import Operation, in_thread
from kaito_oci.platforms import choose
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.settings import RegistrySettings

_T = TypeVar("_T")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference means right now."""

    digest: str
    """Digest that the tag has: of the index where there is one. This is what `repo@digest` in a status should say."""
    manifest_digest: str
    """Digest of the manifest for this machine; equal to `digest` where there is no index."""
    manifest: Manifest
    raw: bytes
    """The manifest's exact bytes."""


@asynccontextmanager
async def open_session(
    reference: Reference,
    first: Callable[[HardenedRegistry], _T],
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> AsyncIterator[tuple[Operation, HardenedRegistry, _T]]:
    """A client whose `first` request was let in, with its answer. What else is asked belongs to the same operation.

    `plain_http_hosts` are added to those of the settings. The client is closed at the end. Raises OciError.
    """
    operation = Operation()
    where = _effective(settings, plain_http_hosts)
    registry, answer = await in_thread(operation, _connect, reference, auth or Anonymous(), where, first)
    try:
        yield operation, registry, answer
    finally:
        registry.session.close()


async def ask(
    reference: Reference,
    question: Callable[[HardenedRegistry], _T],
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> _T:
    """The answer to a single question, which runs in a worker thread. Raises OciError."""
    session = open_session(reference, question, auth=auth, plain_http_hosts=plain_http_hosts, settings=settings)
    async with session as (_, _, answer):
        return answer


def _effective(settings: RegistrySettings | None, plain_http_hosts: Collection[str]) -> RegistrySettings:
    base = settings or RegistrySettings()
    plain = frozenset(base.plain_http_hosts) | frozenset(plain_http_hosts)
    return msgspec.structs.replace(base, plain_http_hosts=plain)


def _connect(
    reference: Reference, auth: CredentialSource, settings: RegistrySettings, first: Callable[[HardenedRegistry], _T]
) -> tuple[HardenedRegistry, _T]:
    """Do the first request with one credential after the other, until one is let in; the client that was, and the answer.

    Without any entry for the registry the request is anonymous. A wrong credential is an error, not a reason to go anonymous.
    """
    candidates = auth.candidates(reference)
    refused: Exception | None = None
    for credential in candidates or (None,):
        registry = HardenedRegistry(reference, credential, settings)
        try:
            return registry, first(registry)
        except (Unauthorized, Denied, NotFound) as error:
            registry.session.close()
            # Registries hide private repositories behind 404: the more telling refusal is kept.
            refused = error if refused is None or isinstance(refused, NotFound) else refused
    assert refused is not None
    if isinstance(refused, Unauthorized) and not candidates:
        hint = f"no credentials for {reference.registry} were given: name a pull or push Secret with an entry for this host"
        raise Unauthorized(f"{refused}; {hint}", by_registry=refused.by_registry) from refused
    raise refused


async def manifest_of(
    reference: Reference,
    *,
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> tuple[bytes, str]:
    """The verified bytes and the media type behind a reference: of the index itself where it is one. Raises OciError."""
    raw, media_type, _ = await ask(
        reference,
        lambda client: client.read_manifest(reference.target, Limits()),
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )
    return raw, media_type


def read_image(registry: HardenedRegistry, platform: Platform, limits: Limits) -> Image:
    """The manifest behind the client's reference, through an index if need be, every step verified."""
    raw, content_type, digest = registry.read_manifest(registry.reference.target, limits)
    parsed = manifests.parse(raw, content_type, limits)
    if isinstance(parsed, Manifest):
        return Image(digest=digest, manifest_digest=digest, manifest=parsed, raw=raw)
    entry = choose(parsed, platform)
    raw, content_type, inner = registry.read_manifest(entry.digest, limits, entry.size)
    parsed = manifests.parse(raw, content_type, limits)
    if isinstance(parsed, Index):
        raise InvalidManifest(f"{registry.reference}: an index inside of an index")
    return Image(digest=digest, manifest_digest=inner, manifest=parsed, raw=raw)
