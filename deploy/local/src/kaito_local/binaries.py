"""The Kubernetes programs: found where the user has them, else built once from pinned Go modules into the cache."""

import asyncio
import fcntl
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from kaito_local.command import run
from kaito_local.disk import Need, check_room
from kaito_local.errors import CommandError, LocalError
from kaito_local.locations import REPOSITORY, cache_root
from kaito_local.progress import say

_TOOLS = REPOSITORY / "tools"
_PEAK = {"kubernetes": 6.0, "helm": 1.5, "coredns": 1.0}
_PEAK_OTHER = 0.1
"""GiB that building a folder's programs with cold caches takes: Go's build cache and modules, and what is built. Measured."""
_BUILD_TIMEOUT = 3600.0  # a cold kube-apiserver takes 8 minutes on two cores, and the cores may be shared


class Component(msgspec.Struct, frozen=True):
    """One program: the folder of tools/ whose go.mod pins it, its Go package, and the module whose version is its own."""

    name: str
    folder: str
    package: str
    module: str = ""
    cgo: bool = False


def _kubernetes(name: str, cgo: bool = False) -> Component:
    return Component(
        name=name,
        folder="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        module="k8s.io/kubernetes",
        cgo=cgo,
    )


COMPONENTS = {
    component.name: component
    for component in (
        Component(
            name="etcd",
            folder="kubernetes",
            package="go.etcd.io/etcd/server/v3",
            module="go.etcd.io/etcd/server/v3",
        ),
        _kubernetes("kube-apiserver"),
        _kubernetes("kubectl"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubelet", cgo=True),
        Component(name="coredns", folder="coredns", package=".", module="github.com/coredns/coredns"),
        Component(name="helm", folder="helm", package="helm.sh/helm/v3/cmd/helm", module="helm.sh/helm/v3"),
        Component(name="pause", folder="pause", package="."),
        Component(name="healthcheck", folder="healthcheck", package="."),
        Component(name="oras", folder="oras", package="oras.land/oras/cmd/oras", module="oras.land/oras"),
    )
}
"""Every program that the local cluster needs, and those of benchmarks."""

FOR_BENCHMARKS = ("oras",)
"""What something is only measured against: built when a benchmark asks for it, never with the others."""

CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")
"""What KUBEBUILDER_ASSETS and setup-envtest provide too."""


def pinned_version(component: Component) -> str:
    """The version, without the leading v, that go.mod pins the component's module to; "1" for our own programs."""
    return _pin(component.folder, component.module) if component.module else "1"


def _pin(folder: str, module: str) -> str:
    text = (_TOOLS / folder / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} v(\S+)", text, re.MULTILINE)
    if not found:
        raise LocalError(f"tools/{folder}/go.mod does not pin {module}")
    return found.group(1)


def cache_folder(component: Component) -> Path:
    """Where the built program lies: a folder of the pinned version, so that a new pin is a new build."""
    if component.folder == "kubernetes":  # etcd too: one release of Kubernetes is tested with one of etcd
        return cache_root() / f"bin-{_pin('kubernetes', 'k8s.io/kubernetes')}"
    return cache_root() / f"{component.folder}-{pinned_version(component)}"


async def ensure(names: Iterable[str]) -> dict[str, Path]:
    """Paths of the named programs, in this order: $KUBEBUILDER_ASSETS, the cache, setup-envtest, a build from source.

    Raises LocalError when a program has to be built and Go is missing or the build fails.
    """
    wanted = list(names)
    found = {name: path for name in wanted if (path := _present(name))}
    missing = [name for name in wanted if name not in found]
    if missing and set(missing) <= set(CONTROL_PLANE) and (assets := await _envtest_assets()):
        return found | {name: assets / name for name in missing}
    check_room(await disk_needs(missing))
    for name in missing:
        found[name] = await _build(COMPONENTS[name])
    return found


async def disk_needs(names: Iterable[str]) -> list[Need]:
    """What building those of the named programs takes that are not here; nothing when all are, or when Go is not."""
    folders = {COMPONENTS[name].folder for name in names if not _present(name)}
    if not folders or not shutil.which("go"):
        return []
    cache = Path((await run("go", "env", "GOCACHE")).strip())
    return [Need("the Go programs", sum(_PEAK.get(folder, _PEAK_OTHER) for folder in folders), cache)]


def _present(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and name in CONTROL_PLANE and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    cached = cache_folder(COMPONENTS[name]) / name
    return cached if os.access(cached, os.X_OK) else None


async def _envtest_assets() -> Path | None:
    """What setup-envtest has or downloads for our minor version; None when it is not installed or cannot."""
    if not shutil.which("setup-envtest"):
        return None
    minor = ".".join(pinned_version(COMPONENTS["kube-apiserver"]).split(".")[:2])
    try:
        path = await run("setup-envtest", "use", f"{minor}.x", "-p", "path", timeout=300)
    except CommandError as error:
        say(f"  setup-envtest has no {minor}.x, building instead: {error}")
        return None
    return Path(path.strip())


async def _build(component: Component) -> Path:
    """Builds one program into the cache: beside its place first, then renamed, so that nobody sees half of it."""
    target = cache_folder(component) / component.name
    if not shutil.which("go"):
        raise LocalError(
            f"{component.name} has to be built and Go is not installed. Install Go 1.25 or newer, or set"
            " KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl (enough for make control-plane)."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    async with _lock(target.with_name(f".{component.name}.lock"), component.name):
        if os.access(target, os.X_OK):
            return target
        began = time.monotonic()
        say(f"  building {component.name} {pinned_version(component)} from tools/{component.folder} ...")
        fresh = target.with_name(f".{component.name}.{os.getpid()}")
        await run(
            *("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", _ldflags(component), "-o", fresh),
            component.package,
            cwd=_TOOLS / component.folder,
            env={"CGO_ENABLED": "1" if component.cgo else "0"},
            timeout=_BUILD_TIMEOUT,
        )
        fresh.replace(target)
        say(f"  built    {component.name} in {time.monotonic() - began:.0f} s: {target}")
    return target


def _ldflags(component: Component) -> str:
    flags = ["-s", "-w"]
    version = f"v{pinned_version(component)}"
    if component.module == "k8s.io/kubernetes":
        major, minor, _ = version[1:].split(".")
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += ["-X", f"{package}.gitVersion={version}"]
            flags += ["-X", f"{package}.gitMajor={major}", "-X", f"{package}.gitMinor={minor}"]
    if component.name == "helm":
        flags += ["-X", f"helm.sh/helm/v3/internal/version.version={version}"]
        # Helm's own Makefile does the same: the version it believes to be tested with, else it warns of an old client.
        for package in ("pkg/lint/rules", "pkg/chartutil"):
            flags += ["-X", f"helm.sh/helm/v3/{package}.k8sVersionMajor=1"]
            flags += ["-X", f"helm.sh/helm/v3/{package}.k8sVersionMinor={_kubernetes_minor()}"]
    return " ".join(flags)


def _kubernetes_minor() -> str:
    return pinned_version(COMPONENTS["kube-apiserver"]).split(".")[1]


@asynccontextmanager
async def _lock(path: Path, name: str) -> AsyncIterator[None]:
    """Holds a lock among processes: two of them must not build one program twice."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  another process is building {name}; waiting for it ...")
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
