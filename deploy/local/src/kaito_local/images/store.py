"""One unpacked copy of the images that every node starts from.

Each node of the local cluster has a containerd of its own, and unpacking the 6 GB of Python packages takes minutes. So
the images are imported once, into a template root, and a new node's root is a copy of it made of hard links: seconds,
and no more disk. Sharing is safe because containerd never writes to a content blob or to a committed snapshot; its two
metadata databases, which it does write, are real copies.
"""

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from kaito_local.command import run
from kaito_local.errors import LocalError
from kaito_local.images.blobs import BlobStore
from kaito_local.images.containerd import Containerd
from kaito_local.images.spec import Image
from kaito_local.locations import cache_root
from kaito_local.processes import Process, ProcessTable, alive, log_tail

_CONTENT = "io.containerd.content.v1.content"
_SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs"
_METADATA = "io.containerd.metadata.v1.bolt"
_LOADED = "loaded"
_START_TIMEOUT = 30.0

_CONFIG = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state}/containerd.sock"
"""


def template_root() -> Path:
    """The root folder of the template."""
    return cache_root() / "images" / "containerd"


async def load_template(store: BlobStore, images: list[Image], prefix: str) -> list[str]:
    """Import the images into the template; returns the new names. Their blobs then share disk blocks with ours."""
    wanted = sorted(image.reference(prefix) for image in images)
    loaded = template_root() / _LOADED
    with _locked(store.root / "containerd.lock"):
        if await asyncio.to_thread(_read, loaded) == wanted:
            return []
        async with _containerd(template_root()) as containerd:
            new = await containerd.load(store, images, prefix)
        await asyncio.to_thread(loaded.write_text, "\n".join(wanted))
    content = template_root() / _CONTENT / "blobs" / "sha256"
    for image in images:
        for blob in image.blobs:
            store.share(blob, content / blob.digest.removeprefix("sha256:"))
    return new


def _read(loaded: Path) -> list[str]:
    """The images of the last import: starting containerd only to hear that nothing is new takes two seconds."""
    return loaded.read_text().split() if loaded.exists() else []


def template_version() -> str | None:
    """Changes whenever the template has; None when there is none."""
    try:
        return str((template_root() / _METADATA / "meta.db").stat().st_mtime_ns)
    except FileNotFoundError:
        return None


async def seed(containerd_root: Path) -> bool:
    """Fill the empty root of a node's containerd before its first start; false when there is no template to copy."""
    template = template_root()
    if not (template / _METADATA / "meta.db").exists():
        return False
    with _locked(template.parent / "containerd.lock"):
        for part in (f"{_CONTENT}/blobs", f"{_SNAPSHOTS}/snapshots"):
            target = containerd_root / part
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            await _copy_by_links(template / part, target)
        for part in (f"{_METADATA}/meta.db", f"{_SNAPSHOTS}/metadata.db"):
            target = containerd_root / part
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            await asyncio.to_thread(shutil.copyfile, template / part, target)
            target.chmod(0o600)
    return True


def _same_disk(source: Path, target: Path) -> bool:
    return source.stat().st_dev == target.stat().st_dev


async def _copy_by_links(source: Path, target: Path) -> None:
    """Copy a tree with hard links, or really where the target is on another disk."""
    same_disk = _same_disk(source, target.parent)
    await run("cp", "-a", *(["--link"] if same_disk else []), source, target, timeout=900)


@asynccontextmanager
async def _containerd(root: Path) -> AsyncIterator[Containerd]:
    """A containerd on this root for the time of the block; the caller holds the lock."""
    program = shutil.which("containerd")
    if program is None:
        raise LocalError("containerd is not installed: apt-get install containerd")
    await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True, mode=0o700)
    table = ProcessTable(root.with_name("containerd-process"))
    # One that a killed import left behind holds the database, and the next would wait for it for ever.
    await table.stop_all()
    # Sockets have short paths, which a cache folder need not have.
    with tempfile.TemporaryDirectory(prefix="kaito-images-") as folder:
        state = Path(folder)
        config = state / "config.toml"
        config.write_text(_CONFIG.format(root=root, state=state))
        process = table.start("containerd", [program, "--config", config])
        try:
            await _wait_for(state / "containerd.sock", process)
            yield Containerd(state / "containerd.sock")
        finally:
            await table.stop_all()


async def _wait_for(socket: Path, process: Process) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            while not socket.exists():
                if not alive(process):
                    raise LocalError(f"containerd ended while starting:\n{log_tail(process)}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise LocalError(f"containerd did not start in {_START_TIMEOUT:.0f} s:\n{log_tail(process)}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps copies and imports apart, between processes too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
