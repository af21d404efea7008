"""Which images there are: the services, the Python packages that each needs, and how it is started."""

import tomllib
from pathlib import Path

import msgspec

from kaito_local.images.spec import Runtime

# Debian packages of the base: the interpreter, trust anchors, and the shared libraries that torch and vLLM open.
BASE_SUITE = "bookworm"
BASE_PACKAGES = ("python3", "ca-certificates", "libgomp1", "libnuma1", "libtcmalloc-minimal4")
BASE_PYTHON = "python3.11"
VENV = "opt/venv"
SITE_PACKAGES = f"lib/{BASE_PYTHON}/site-packages"


class PackageSet(msgspec.Struct, frozen=True, kw_only=True):
    """A selection of the lock file that becomes one layer: workspace members whose third-party needs are united."""

    name: str
    members: tuple[str, ...]
    extras: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One image."""

    name: str
    packages: PackageSet


# Server and tuner share their 6 GB: one layer, made and imported once.
ENGINE_CPU = PackageSet(name="engine-cpu", members=("model-server", "tuner"), extras=("cpu", "train"))

SERVICES = {
    service.name: service
    for service in (
        Service(
            name="workspace-controller",
            packages=PackageSet(name="workspace-controller", members=("workspace-controller",)),
        ),
        Service(name="gpu-provisioner", packages=PackageSet(name="gpu-provisioner", members=("gpu-provisioner",))),
        Service(name="adapter-packager", packages=PackageSet(name="adapter-packager", members=("adapter-packager",))),
        Service(name="model-server", packages=ENGINE_CPU),
        Service(name="tuner", packages=ENGINE_CPU),
    )
}


def runtime(service: Service, version: str) -> Runtime:
    """How a service's container starts: its console script, as user 1000, logs unbuffered, no bytecode written."""
    return Runtime(
        entrypoint=(f"/{VENV}/bin/{service.name}",),
        env=(
            ("PATH", f"/{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
            ("PYTHONUNBUFFERED", "1"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ),
        labels=(
            ("org.opencontainers.image.title", service.name),
            ("org.opencontainers.image.version", version),
            ("org.opencontainers.image.licenses", "Apache-2.0"),
            ("sh.kaito.packages", service.packages.name),
        ),
    )


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A package of the uv workspace as its pyproject.toml describes it."""

    name: str
    path: Path
    version: str
    dependencies: tuple[str, ...]
    data: tuple[Path, ...] = ()
    """Folders outside the member that its wheel carries (hatch's force-include)."""


def workspace_members(repository: Path) -> dict[str, Member]:
    """Every member of the uv workspace, by name."""
    root = tomllib.loads((repository / "pyproject.toml").read_text())
    members = {}
    for pattern in root["tool"]["uv"]["workspace"]["members"]:
        for path in sorted(repository.glob(pattern)):
            if (path / "pyproject.toml").is_file():
                member = _member(path)
                members[member.name] = member
    return members


def _member(path: Path) -> Member:
    document = tomllib.loads((path / "pyproject.toml").read_text())
    project = document["project"]
    wheel = document.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    return Member(
        name=project["name"],
        path=path,
        version=project["version"],
        dependencies=tuple(project.get("dependencies", ())),
        data=tuple((path / source).resolve() for source in sorted(wheel.get("force-include", {}))),
    )


def closure(name: str, members: dict[str, Member]) -> tuple[Member, ...]:
    """A member and the members that it needs, sorted by name."""
    found: dict[str, Member] = {}
    pending = [name]
    while pending:
        member = members[pending.pop()]
        if member.name not in found:
            found[member.name] = member
            pending += [need for need in member.dependencies if need in members]
    return tuple(found[key] for key in sorted(found))
