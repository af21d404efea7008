"""The images of docker-compose.test.yaml, made without an image registry: programs of this machine on an empty root, and the
ARM stand-in on the same base as the services' images."""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kaito_local.binaries import ensure
from kaito_local.command import run
from kaito_local.compose.docker import has_image, load
from kaito_local.compose.docker_archive import write_docker_archive
from kaito_local.errors import CommandError
from kaito_local.images.base import base_layer
from kaito_local.images.blobs import BlobStore
from kaito_local.images.catalog import VENV, PackageSet, closure, workspace_members
from kaito_local.images.code import code_key, code_layer
from kaito_local.images.inputs import key
from kaito_local.images.packages import packages_key, packages_layer
from kaito_local.images.spec import Blob, Runtime
from kaito_local.images.tarball import Tree, write_layer
from kaito_local.locations import REPOSITORY
from kaito_local.progress import phase

_PREFIX = "kaito-test"
_ARM = PackageSet(name="kaito-local", members=("kaito-local",))
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProgramImage(msgspec.Struct, frozen=True):
    """An image of one program: where it lies, as in the project's own public image, and what it is called on this machine."""

    name: str
    place: str
    programs: tuple[str, ...] = ()
    """Names to look for on the PATH; none for what `kaito-local tools` builds."""
    package: str = ""
    """The Debian package that has it."""

    @property
    def setting(self) -> str:
        """The variable that names another image."""
        return f"KAITO_TEST_{self.name.removeprefix('kube-').upper()}_IMAGE"


ARM_SETTING = "KAITO_TEST_ARM_IMAGE"
PROGRAM_IMAGES = (
    ProgramImage("etcd", "usr/local/bin/etcd"),
    ProgramImage("kube-apiserver", "usr/local/bin/kube-apiserver"),
    ProgramImage("registry", "bin/registry", ("docker-registry", "registry"), "docker-registry"),
    ProgramImage("prometheus", "bin/prometheus", ("prometheus",), "prometheus"),
)


def missing(environ: Mapping[str, str], euid: int) -> list[str]:
    """What has to be there before images can be made, a sentence each; an image that is named needs nothing."""
    found = [
        f"{image.programs[0]} is not installed: apt-get install {image.package}, or name an image in {image.setting}"
        for image in PROGRAM_IMAGES
        if image.programs and not environ.get(image.setting) and not any(shutil.which(name) for name in image.programs)
    ]
    if not environ.get(ARM_SETTING) and (euid != 0 or shutil.which("debootstrap") is None):
        found.append(
            f"the ARM stand-in's image needs root and debootstrap (apt-get install debootstrap); or name one in {ARM_SETTING}"
            " that a machine with both has made (kaito-local compose images)"
        )
    return found


async def images(store: BlobStore, environ: Mapping[str, str]) -> dict[str, str]:
    """Setting and image of every service: the named one, else the one made here and loaded."""
    chosen = {}
    for image in PROGRAM_IMAGES:
        chosen[image.setting] = environ.get(image.setting) or await _program_image(store, image)
    chosen[ARM_SETTING] = environ.get(ARM_SETTING) or await _arm_image(store)
    return chosen


async def _program_image(store: BlobStore, image: ProgramImage) -> str:
    if image.programs:
        program = Path(next(found for name in image.programs if (found := shutil.which(name)))).resolve()
    else:
        program = (await ensure((image.name,)))[image.name]
    files = {image.place: program, **await shared_libraries(program)}
    contents = [f"{place} {hashlib.sha256(path.read_bytes()).hexdigest()}" for place, path in sorted(files.items())]
    reference = f"{_PREFIX}/{image.name}:{_tag('program', *contents)}"
    if await has_image(reference):
        return reference
    with phase(f"image {image.name}"), store.stage(image.name) as stage:
        root = stage / "root"
        for place, path in files.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755)
        layer = stage / "layer.tar"
        with layer.open("wb") as file:
            blob = write_layer([Tree(source=root)], file)
        runtime = Runtime(entrypoint=(f"/{image.place}",), user="65532:65532", env=(("PATH", _PATH),))
        await _load(stage, reference, runtime, {image.name: (blob, layer)})
    return reference


async def _arm_image(store: BlobStore) -> str:
    members = closure("kaito-local", workspace_members(REPOSITORY))
    reference = f"{_PREFIX}/arm:{_tag('arm', await packages_key(REPOSITORY, _ARM), code_key(members))}"
    if await has_image(reference):
        return reference
    with phase("image arm"), store.stage("arm") as stage:
        layers = {
            "debian base": await base_layer(store),
            "packages kaito-local": await packages_layer(store, REPOSITORY, _ARM),
            "kaito-local": await code_layer(store, REPOSITORY, members),
        }
        runtime = Runtime(
            entrypoint=("python", "-m", "kaito_local.compose.arm_server"),
            env=(("PATH", f"/{VENV}/bin:{_PATH}"), ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")),
        )
        await _load(stage, reference, runtime, {name: (blob, store.path(blob)) for name, blob in layers.items()})
    return reference


async def _load(stage: Path, reference: str, runtime: Runtime, layers: dict[str, tuple[Blob, Path]]) -> None:
    archive = stage / "image.tar"
    with archive.open("wb") as file:
        write_docker_archive(file, reference, runtime, layers)
    await load(archive, reference)


def _tag(kind: str, *inputs: str) -> str:
    return key(kind, *inputs).rpartition("-")[2][:12]


async def shared_libraries(program: Path) -> dict[str, Path]:
    """The libraries that a program is linked with, by their place in an image; a static one has none."""
    try:
        listed = await run("ldd", program)
    except CommandError:
        return {}  # "not a dynamic executable"
    return {path.lstrip("/"): Path(path).resolve() for path in libraries_of(listed)}


def libraries_of(listed: str) -> list[str]:
    """The paths in what ldd prints."""
    return re.findall(r"(/\S+) \(0x", listed)
