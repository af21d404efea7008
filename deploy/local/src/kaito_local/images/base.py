"""The base layer: a minimal Debian with Python, made by debootstrap from Debian's package archive."""

import asyncio
import os
import shutil
from pathlib import Path

from kaito_local.command import run
from kaito_local.images.blobs import BlobStore
from kaito_local.images.bytecode import compile_tree
from kaito_local.images.catalog import BASE_PACKAGES, BASE_PYTHON, BASE_SUITE
from kaito_local.images.inputs import key
from kaito_local.images.spec import Blob
from kaito_local.images.tarball import Tree, write_layer

# Documentation, package lists and files that differ from one debootstrap run to the next.
_LEFT_OUT = (
    "dev/*",
    "proc/*",
    "sys/*",
    "run/*",
    "tmp/*",
    "var/cache/*",
    "var/lib/apt/lists/*",
    "var/log/*",
    "var/lib/dpkg/*-old",
    "etc/machine-id",
    "etc/resolv.conf",
    "etc/hostname",
    "etc/passwd-",
    "etc/group-",
    "etc/shadow-",
    "etc/gshadow-",
    "etc/apt/sources.list",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/lintian/*",
    "usr/share/locale/*",
    "usr/share/man/*",
)


def mirror() -> tuple[str, ...]:
    """The mirror that $KAITO_DEBIAN_MIRROR names; none leaves the choice to debootstrap."""
    named = os.environ.get("KAITO_DEBIAN_MIRROR")
    return (named,) if named else ()


def base_key() -> str:
    """The cache key of the base."""
    return key("base", BASE_SUITE, *mirror(), *BASE_PACKAGES)


async def rootfs(store: BlobStore) -> Path:
    """The unpacked base, made on first use (about 40 s): also the interpreter that packages are installed for."""
    folder = store.root / "rootfs" / base_key()
    if folder.is_dir():
        return folder
    scratch = folder.with_suffix(f".{os.getpid()}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    include = ",".join(BASE_PACKAGES)
    options = ("--variant=minbase", f"--include={include}")
    await run("debootstrap", *options, BASE_SUITE, scratch, *mirror(), timeout=900)
    _add_user(scratch)
    python = scratch / "usr" / "bin" / BASE_PYTHON
    library = scratch / "usr" / "lib"
    await compile_tree(python, library / BASE_PYTHON, strip=scratch, prepend="/")
    await compile_tree(python, library / "python3" / "dist-packages", strip=scratch, prepend="/")
    scratch.rename(folder)
    return folder


async def base_layer(store: BlobStore) -> Blob:
    """The base as a layer."""
    known = store.remembered(base_key())
    if known:
        return known
    tree = Tree(source=await rootfs(store), exclude=_LEFT_OUT)
    return await asyncio.to_thread(store.layer, base_key(), lambda target: write_layer([tree], target))


def _add_user(root: Path) -> None:
    """User 1000 needs a name: torch asks for it when it picks a cache folder."""
    with (root / "etc/passwd").open("a") as passwd:
        passwd.write("kaito:x:1000:1000:KAITO:/tmp/home:/usr/sbin/nologin\n")
    with (root / "etc/group").open("a") as group:
        group.write("kaito:x:1000:\n")
