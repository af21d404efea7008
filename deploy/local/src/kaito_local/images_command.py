"""`kaito-local images`: builds the services' images, and hands them on where asked."""

import argparse
import asyncio
from pathlib import Path

import yaml

from kaito_local.images.archive import write_layout
from kaito_local.images.build import build_images, image_store
from kaito_local.images.catalog import SERVICES
from kaito_local.images.push import push_images
from kaito_local.images.store import load_template
from kaito_local.images.values import image_values
from kaito_local.progress import phase

LOCAL_PREFIX = "kaito.local"
"""Where images that are imported rather than pulled pretend to come from; nothing answers at this name."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this module."""
    parser = subparsers.add_parser("images", help="build the services' images without Docker or an image registry")
    parser.add_argument("names", nargs="*", metavar="SERVICE", help=f"of {', '.join(SERVICES)}; all by default")
    parser.add_argument("--load", action="store_true", help="import them for the nodes of the local cluster")
    parser.add_argument("--push", metavar="REGISTRY/PATH", help="push them below this name")
    parser.add_argument("--plain-http", action="store_true", help="push without TLS")
    parser.add_argument("--layout", type=Path, metavar="FOLDER", help="write an OCI image layout")
    parser.add_argument(
        "--values", type=Path, metavar="FILE", help="write values of the chart that name what was pushed"
    )
    parser.set_defaults(command=images)


async def images(args: argparse.Namespace) -> int:
    """Builds, then loads, pushes and writes as asked; prints one full image name a line."""
    unknown = sorted(set(args.names) - set(SERVICES))
    if unknown:
        print(f"no such service: {', '.join(unknown)}; there are {', '.join(SERVICES)}")
        return 2
    store = image_store()
    built = await build_images(args.names or list(SERVICES), store)
    prefix = args.push or LOCAL_PREFIX
    if args.load:
        with phase("import into the local cluster's image store"):
            await load_template(store, built, LOCAL_PREFIX)
    if args.push:
        with phase(f"push to {args.push}"):
            await push_images(store, built, args.push, plain_http=args.plain_http)
    if args.layout:
        await asyncio.to_thread(write_layout, store, built, prefix, args.layout)
    if args.values:
        names = {image.name: image.reference(prefix) for image in built}
        args.values.write_text(yaml.safe_dump(image_values(names), sort_keys=False))
    for image in built:
        print(image.reference(prefix))
    return 0
