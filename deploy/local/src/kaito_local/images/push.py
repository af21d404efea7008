"""Pushes built images to a registry with skopeo, which knows the user's credentials and every registry's manners."""

from kaito_local.command import run
from kaito_local.images.archive import write_layout
from kaito_local.images.blobs import BlobStore
from kaito_local.images.spec import Image


async def push_images(store: BlobStore, images: list[Image], prefix: str, *, plain_http: bool) -> None:
    """Push each image below ``prefix``; blobs that the registry has are not sent again."""
    with store.stage("push") as layout:
        write_layout(store, images, prefix, layout)
        for image in images:
            await push_layout_image(
                f"{layout}:{image.reference(prefix)}", image.reference(prefix), plain_http=plain_http
            )


async def push_layout_image(source: str, reference: str, *, plain_http: bool) -> None:
    """Copy one image of an OCI layout (``folder:name``) to a registry reference."""
    options = ("--quiet", "--preserve-digests", "--retry-times=3")
    tls = f"--dest-tls-verify={'false' if plain_http else 'true'}"
    await run("skopeo", "copy", *options, tls, f"oci:{source}", f"docker://{reference}", timeout=3600)
