"""Writes build/sbom: what is in each image, as CycloneDX 1.5, from uv.lock and the Dockerfiles.

What each Dockerfile's `uv sync` selects is exported with the same words, so image and list cannot differ. The project's own
packages are added: those that the Dockerfile's `uv pip install` names. Equal inputs give equal files. Debian's packages are not
listed: the image itself says them, in /var/lib/dpkg/status.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("cpu", "gpu")
"""What a Dockerfile's ARG ENGINE may be."""
_SYNC = re.compile(r"^RUN uv sync ((?:.*\\\n)*.*)$", re.MULTILINE)
_OWN = re.compile(r"^RUN uv pip install --no-deps .*--prefix /opt/code (.*)$", re.MULTILINE)
_INSTALLS_ONLY = {"--no-editable", "--no-install-workspace"}
"""Words of `uv sync` that choose nothing and that `uv export` does not know."""
_PLACE = {
    "python_version": "3.11",
    "python_full_version": "3.11.2",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
}
"""The images' interpreter (Debian 12) and machine: the lock file holds what other interpreters would need, too."""
_CHANGES = ("timestamp", "serialNumber")
"""What uv writes anew each time."""


def variants(dockerfile: str, service: str) -> dict[str, str]:
    """Return the images that a Dockerfile makes: the list's name, and the engine that it is built with ("" for none)."""
    if "${ENGINE}" not in dockerfile:
        return {service: ""}
    return {f"{service}-{engine}": engine for engine in ENGINES}


def selection(dockerfile: str, engine: str) -> list[str]:
    """Return the words by which the Dockerfile chooses packages of the lock file."""
    found = _SYNC.search(dockerfile)
    if found is None:
        raise ValueError("the Dockerfile has no line RUN uv sync")
    words = found.group(1).replace("\\\n", " ").replace('"', "").replace("${ENGINE}", engine).split()
    return [word for word in words if word not in _INSTALLS_ONLY]


def own(dockerfile: str) -> Iterator[dict[str, Any]]:
    """Yield the project's own packages in the image, as components."""
    found = _OWN.search(dockerfile)
    if found is None:
        raise ValueError("the Dockerfile has no line RUN uv pip install --no-deps ... --prefix /opt/code")
    for path in found.group(1).split():
        project = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
        name, version = project["name"], project["version"]
        yield {"type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version}


def installed(component: dict[str, Any]) -> bool:
    """Whether a package of the export is for the images' interpreter."""
    markers = [each["value"] for each in component.get("properties", ()) if each["name"] == "uv:package:marker"]
    return all(Marker(marker).evaluate(_PLACE) for marker in markers)


def sbom(service: str, engine: str) -> dict[str, Any]:
    """Return the list of one image."""
    dockerfile = (ROOT / "services" / service / "Dockerfile").read_text()
    words = (
        "uv",
        "export",
        "--quiet",
        *selection(dockerfile, engine),
        "--no-emit-workspace",
        "--format",
        "cyclonedx1.5",
    )
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=120)
    document: dict[str, Any] = json.loads(done.stdout)
    mine = list(own(dockerfile))
    version = next(each["version"] for each in mine if each["name"] == service)
    image = {"type": "container", "bom-ref": f"image-{service}", "name": f"kaito/{service}", "version": version}
    engines = [{"name": "kaito:engine", "value": engine}] if engine else []
    metadata = {**document["metadata"], "component": image, "properties": engines}
    document |= {"metadata": metadata, "components": [*filter(installed, document["components"]), *mine]}
    # uv's edges begin at the lock file's root, which is not in the image.
    known = {each["bom-ref"] for each in document["components"]}
    document["dependencies"] = [
        {"ref": each["ref"], "dependsOn": [ref for ref in each.get("dependsOn", ()) if ref in known]}
        for each in document["dependencies"]
        if each["ref"] in known
    ]
    for place in (document, metadata):
        for key in _CHANGES:
            place.pop(key, None)
    return document


def main() -> int:
    """Write one file an image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "sbom", help="folder (default: build/sbom)")
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("*.cdx.json"):
        left.unlink()
    for path in sorted(ROOT.glob("services/*/Dockerfile")):
        service = path.parent.name
        for name, engine in variants(path.read_text(), service).items():
            document = sbom(service, engine)
            (folder / f"{name}.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
            sys.stdout.write(f"{folder / name}.cdx.json: {len(document['components'])} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
