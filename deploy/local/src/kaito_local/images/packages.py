"""Third-party Python packages as a layer: a virtual environment at /opt/venv, exactly what uv.lock says."""

import asyncio
from pathlib import Path

from kaito_local.command import run
from kaito_local.images.base import base_key, rootfs
from kaito_local.images.blobs import BlobStore
from kaito_local.images.bytecode import compile_tree
from kaito_local.images.catalog import BASE_PYTHON, SITE_PACKAGES, VENV, PackageSet
from kaito_local.images.inputs import key, pins, tree_digest
from kaito_local.images.spec import Blob
from kaito_local.images.tarball import Tree, write_layer
from kaito_local.locations import cache_root

UV = {"UV_PYTHON_PREFERENCE": "only-system", "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "hardlink"}

# Activation scripts name the build folder; uv's notes hold dates; static libraries serve compilers only.
_LEFT_OUT = (
    "bin/activate*",
    "bin/*.bat",
    ".gitignore",
    ".lock",
    "CACHEDIR.TAG",
    "*/uv_cache.json",
    "*/uv_build.json",
    "*/direct_url.json",
    "*.a",
)


def selection(packages: PackageSet) -> list[str]:
    """The arguments that pick this set out of the lock file."""
    arguments = ["--frozen", "--no-dev"]
    for member in packages.members:
        arguments += ["--package", member]
    for extra in packages.extras:
        arguments += ["--extra", extra]
    return arguments


async def packages_key(repository: Path, packages: PackageSet) -> str:
    """The cache key: the pinned requirements with their hashes, and the base whose interpreter they are for."""
    return key(f"packages-{packages.name}", base_key(), pins(await _exported(repository, packages)))


async def _exported(repository: Path, packages: PackageSet) -> str:
    """The requirements of the set; asked once for the same lock file, because the answer takes uv half a second."""
    members = (repository / name for name in ("uv.lock", "pyproject.toml"))
    question = key("export", tree_digest(members), " ".join(selection(packages)))
    place = cache_root() / "images" / "exports" / question
    if not await asyncio.to_thread(place.exists):
        words = ("uv", "export", "-q", *selection(packages), "--no-emit-workspace")
        text = await run(*words, cwd=repository, env=UV)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return place.read_text()


async def packages_layer(store: BlobStore, repository: Path, packages: PackageSet) -> Blob:
    """The layer for a set; packages come from uv's own cache by hard link, so building needs little extra disk."""
    name = await packages_key(repository, packages)
    known = store.remembered(name)
    if known:
        return known
    base = await rootfs(store)
    with store.stage(packages.name) as stage:
        venv = await _install(repository, packages, base, stage)
        tree = Tree(
            source=venv,
            prefix=VENV,
            exclude=_LEFT_OUT,
            rewrite=((str(venv), f"/{VENV}"), (str(base), "")),
            rewrite_in=("pyvenv.cfg",),
        )
        return await asyncio.to_thread(store.layer, name, lambda target: write_layer([tree], target))


async def _install(repository: Path, packages: PackageSet, base: Path, stage: Path) -> Path:
    venv = stage / "venv"
    python = base / "usr" / "bin" / BASE_PYTHON
    # Relocatable: console scripts find their interpreter beside themselves, so no build path gets into the image.
    await run("uv", "venv", "-q", "--relocatable", "--python", python, venv, env=UV)
    options = ("--no-editable", "--no-install-workspace", "--python", python)
    env = {**UV, "UV_PROJECT_ENVIRONMENT": str(venv)}
    await run("uv", "sync", "-q", *selection(packages), *options, cwd=repository, env=env, timeout=1800)
    await compile_tree(venv / "bin" / "python", venv / SITE_PACKAGES, strip=venv, prepend=f"/{VENV}")
    return venv
