"""Builds images: layers from the cache or made now, and the thin documents over them."""

from collections.abc import Iterable
from pathlib import Path

from kaito_local.disk import Need, check_room
from kaito_local.images.base import base_layer
from kaito_local.images.blobs import BlobStore
from kaito_local.images.catalog import SERVICES, closure, runtime, workspace_members
from kaito_local.images.code import code_layer
from kaito_local.images.disk import image_needs
from kaito_local.images.packages import packages_key, packages_layer
from kaito_local.images.spec import CONFIG, MANIFEST, Blob, Image, Runtime, config_document, manifest_document
from kaito_local.locations import REPOSITORY, cache_root
from kaito_local.progress import phase


def image_store() -> BlobStore:
    """The builder's cache."""
    return BlobStore(cache_root() / "images")


async def build_images(names: Iterable[str], store: BlobStore, repository: Path = REPOSITORY) -> list[Image]:
    """Build the named services' images; LocalError when a tool is missing or the disk is too small."""
    names = list(names)
    check_room(await disk_needs(names, store, repository))
    services = [SERVICES[name] for name in names]
    members = workspace_members(repository)
    base = await base_layer(store)
    images = []
    for service in services:
        with phase(f"image {service.name}"):
            packages = await packages_layer(store, repository, service.packages)
            code = await code_layer(store, repository, closure(service.name, members))
        version = members[service.name].version
        layers = {"debian base": base, f"packages {service.packages.name}": packages, service.name: code}
        images.append(assemble(store, service.name, version, runtime(service, version), layers))
    if len(services) == len(SERVICES):
        # A changed lock file leaves 7 GB behind that nothing refers to any more.
        store.prune({blob.digest for image in images for blob in image.blobs})
    return images


def assemble(store: BlobStore, name: str, version: str, started: Runtime, layers: dict[str, Blob]) -> Image:
    """Write an image's documents over its layers, which are named by what they hold.

    The tag carries the manifest's digest, so that new content is a new name.
    """
    blobs = tuple(layers.values())
    config = store.put(CONFIG, config_document(started, blobs, tuple(layers)))
    manifest = store.put(MANIFEST, manifest_document(config, blobs))
    tag = f"{version}-{manifest.digest.removeprefix('sha256:')[:12]}"
    return Image(name=name, tag=tag, manifest=manifest, config=config, layers=blobs)


async def disk_needs(names: Iterable[str], store: BlobStore, repository: Path = REPOSITORY) -> list[Need]:
    """What building the named services' images will take; nothing when all their packages are in the cache."""
    missing = {
        packages.name
        for packages in (SERVICES[name].packages for name in names)
        if not store.remembered(await packages_key(repository, packages))
    }
    return image_needs(store.root, missing)
