"""The first bytes of some files of an image, without fetching the rest: enough to check an adapter before it is pulled.

A raw file is asked for by Range, up to where it is wanted. In a layer nobody knows where a file begins: it is read from its
start, and the connection is dropped when enough was seen.

What is read this way is not verified (a digest covers a whole blob), so it may only say no early. A pull verifies.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping
from contextlib import closing

import msgspec

from kaito_oci.contents import Content, Shape, plan
from kaito_oci.credentials import CredentialSource
from kaito_oci.decompress import Bounded, opened
from kaito_oci.download import BlobStream
from kaito_oci.errors import TooLarge
from kaito_oci.limits import MIB, Limits
from kaito_oci.manifest import Manifest
from kaito_oci.operation import in_thread
from kaito_oci.platforms import this_machine
from kaito_oci.reference import Reference
from kaito_oci.registry import HardenedRegistry
from kaito_oci.session import Image, open_session, read_image
from kaito_oci.settings import RegistrySettings
from kaito_oci.tar import FILE, Reader
from kaito_oci.unpack import clean

Need = Callable[[bytes], int]
"""How many bytes from the start of a file are wanted, given those at hand; a file that is shorter is given whole."""

_MOST = 32 * MIB
"""Bytes of one file, and of what is read past in a layer to find it."""

_AHEAD = 64 * 1024
"""Least bytes to ask for: a header's length and mostly the header come with one request."""


class Start(msgspec.Struct, frozen=True):
    """The beginning of a file, and the size of all of it."""

    content: bytes
    size: int


class Peek(msgspec.Struct, frozen=True):
    """An image and the beginnings of those wanted files that were found without reading much else."""

    image: Image
    files: dict[str, Start]
    seen: tuple[str, ...] = ()
    """Names of the files that were passed on the way, sorted. Not all that there are."""


async def peek(
    reference: str | Reference,
    wanted: Mapping[str, Need],
    *,
    path: str = "",
    auth: CredentialSource | None = None,
    plain_http_hosts: Collection[str] = (),
    settings: RegistrySettings | None = None,
) -> Peek:
    """Read the start of the `wanted` files, by their names relative to `path` (which concerns images, as in `pull`).

    A file that lies behind more than 32 MiB of others is left out. Raises OciError.
    """
    session = open_session(
        Reference.of(reference),
        lambda client: read_image(client, this_machine(), Limits()),
        auth=auth,
        plain_http_hosts=plain_http_hosts,
        settings=settings,
    )
    async with session as (operation, registry, image):
        seen: set[str] = set()
        files = await in_thread(operation, _starts, registry, image.manifest, wanted, path, seen)
        return Peek(image, files, tuple(sorted(seen)))


def _starts(
    registry: HardenedRegistry, manifest: Manifest, wanted: Mapping[str, Need], path: str, seen: set[str]
) -> dict[str, Start]:
    found: dict[str, Start] = {}
    folder = clean(path, "the path") if manifest.is_image else ""
    # The last layer is the uppermost: what it has hides what is below.
    for content in reversed(plan(manifest)):
        if content.shape is Shape.FILE:
            seen.add(content.name)
            if content.name in wanted:
                found[content.name] = _raw(registry, content, wanted[content.name])
        else:
            missing = {name: need for name, need in wanted.items() if name not in found}
            if missing:
                found.update(_from_layer(registry, content, missing, folder, seen))
    return found


def _raw(registry: HardenedRegistry, content: Content, need: Need) -> Start:
    with closing(BlobStream(registry, content.blob)) as stream:
        return Start(_gather(stream.read, content.blob.size, need, stream.aim), content.blob.size)


def _from_layer(
    registry: HardenedRegistry, content: Content, wanted: Mapping[str, Need], folder: str, seen: set[str]
) -> dict[str, Start]:
    found: dict[str, Start] = {}
    with closing(BlobStream(registry, content.blob)) as stream:
        reader = Reader(Bounded(opened(stream, content.compression), content.blob.size, Limits()))
        for entry in reader:
            name = posixpath.relpath(clean(entry.name, "a layer entry") or ".", folder or ".")
            if entry.kind == FILE and not name.startswith("../"):
                seen.add(name)
            if entry.kind == FILE and name in wanted:
                found[name] = Start(_gather(reader.read, entry.size, wanted[name]), entry.size)
            if len(found) == len(wanted) or stream.position + entry.size > _MOST:
                break
    return found


def _gather(read: Callable[[int], bytes], size: int, need: Need, aim: Callable[[int], None] | None = None) -> bytes:
    content = bytearray()
    while (goal := min(need(bytes(content)), size)) > len(content):
        if goal > _MOST:
            raise TooLarge(f"the start of a file would be {goal} bytes")
        if aim is not None:
            aim(max(goal, _AHEAD))
        while len(content) < goal and (chunk := read(goal - len(content))):
            content += chunk
    return bytes(content)
