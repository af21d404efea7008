"""Our own packages as a thin layer: wheels built from the working tree, unpacked beside the third-party packages."""

import asyncio
import configparser
import zipfile
from pathlib import Path

from kaito_local.command import run
from kaito_local.images.base import base_key, rootfs
from kaito_local.images.blobs import BlobStore
from kaito_local.images.bytecode import compile_tree
from kaito_local.images.catalog import BASE_PYTHON, SITE_PACKAGES, VENV, Member
from kaito_local.images.inputs import key, tree_digest
from kaito_local.images.packages import UV
from kaito_local.images.spec import EPOCH_SECONDS, Blob
from kaito_local.images.tarball import Tree, write_layer

_SCRIPT = """#!/{venv}/bin/python
import sys
from {module} import {function}
sys.exit({function}())
"""


def code_key(members: tuple[Member, ...]) -> str:
    """The cache key: every source file, data folder and packaging setting of the members."""
    return key("code", base_key(), *(wheel_key(member) for member in members))


def wheel_key(member: Member) -> str:
    """The cache key of one member's wheel."""
    sources = [member.path / "src", member.path / "pyproject.toml", *member.data]
    return key(f"wheel-{member.name}", tree_digest(sources))


async def code_layer(store: BlobStore, repository: Path, members: tuple[Member, ...]) -> Blob:
    """The layer with these members."""
    name = code_key(members)
    known = store.remembered(name)
    if known:
        return known
    base = await rootfs(store)
    with store.stage("code") as stage:
        venv = stage / "venv"
        for member in members:
            unpack_wheel(await _wheel(store, repository, member), venv)
        python = base / "usr" / "bin" / BASE_PYTHON
        await compile_tree(python, venv / SITE_PACKAGES, strip=venv, prepend=f"/{VENV}")
        tree = Tree(source=venv, prefix=VENV)
        return await asyncio.to_thread(store.layer, name, lambda target: write_layer([tree], target))


async def _wheel(store: BlobStore, repository: Path, member: Member) -> Path:
    """A member's wheel, built once for all images that carry it."""
    place = store.root / "wheels" / f"{wheel_key(member)}.whl"
    if not place.exists():
        with store.stage("wheel") as out:
            env = {**UV, "SOURCE_DATE_EPOCH": str(EPOCH_SECONDS)}
            options = ("--wheel", "--package", member.name, "--out-dir", out)
            await run("uv", "build", "-q", *options, cwd=repository, env=env, timeout=300)
            (wheel,) = out.glob("*.whl")
            place.parent.mkdir(exist_ok=True)
            wheel.replace(place)
    return place


def unpack_wheel(wheel: Path, venv: Path) -> None:
    """Install a pure-Python wheel: its files into site-packages, its console scripts into bin."""
    site = venv / SITE_PACKAGES
    site.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        for name in archive.namelist():
            if name.endswith(".dist-info/entry_points.txt"):
                parser = configparser.ConfigParser()
                parser.read_string(archive.read(name).decode())
                for script, target in parser.items("console_scripts"):
                    _write_script(venv / "bin" / script, target)


def _write_script(path: Path, target: str) -> None:
    module, _, function = target.partition(":")
    path.parent.mkdir(exist_ok=True)
    path.write_text(_SCRIPT.format(venv=VENV, module=module.strip(), function=function.strip()))
    path.chmod(0o755)
