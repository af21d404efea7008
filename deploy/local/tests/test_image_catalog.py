"""The images' contents against the repository: members, and the Dockerfiles that describe the same images."""

import re
import zipfile
from pathlib import Path

import pytest

from kaito_local.images.catalog import BASE_PACKAGES, SERVICES, VENV, closure, runtime, workspace_members
from kaito_local.images.code import unpack_wheel
from kaito_local.images.packages import selection
from kaito_local.locations import REPOSITORY

MEMBERS = workspace_members(REPOSITORY)


def _dockerfile(name: str) -> str:
    return (REPOSITORY / "services" / name / "Dockerfile").read_text()


def test_every_service_has_an_image_and_nothing_else_has() -> None:
    assert set(SERVICES) == {path.name for path in (REPOSITORY / "services").iterdir() if path.is_dir()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("workspace-controller", ["kaito-api", "kaito-oci", "kubecore", "workspace-controller"]),
        ("gpu-provisioner", ["gpu-provisioner", "kaito-api", "kubecore"]),
        ("model-server", ["kaito-api", "kaito-oci", "kubecore", "model-server"]),
    ],
)
def test_an_image_carries_its_service_and_the_libraries_below_it(name: str, expected: list[str]) -> None:
    assert [member.name for member in closure(name, MEMBERS)] == expected


def test_no_image_carries_the_development_tool() -> None:
    assert all("kaito-local" not in [each.name for each in closure(name, MEMBERS)] for name in SERVICES)


def test_the_controllers_image_changes_with_the_catalog() -> None:
    (controller,) = (each for each in closure("workspace-controller", MEMBERS) if each.name == "workspace-controller")
    assert controller.data == (REPOSITORY / "presets",)


def test_server_and_tuner_share_their_packages() -> None:
    assert SERVICES["model-server"].packages is SERVICES["tuner"].packages


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_dockerfile_makes_the_same_image(name: str) -> None:
    text = _dockerfile(name)
    service = SERVICES[name]
    wanted = [word.replace("cpu", "${ENGINE}") for word in selection(service.packages)]
    sync = re.search(r"^RUN uv sync ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert sync is not None
    words = sync.group(1).replace("\\\n", " ").replace('"', "").split()
    assert [word for word in words if word not in {"--no-editable", "--no-install-workspace"}] == wanted
    installed = re.search(r"^RUN uv pip install --no-deps .*--prefix /opt/code (.*)$", text, re.MULTILINE)
    assert installed is not None
    paths = {(REPOSITORY / word).resolve() for word in installed.group(1).split()}
    assert paths == {member.path for member in closure(name, MEMBERS)}
    assert f'ENTRYPOINT ["{runtime(service, "1").entrypoint[0]}"]' in text
    assert "USER 1000:1000" in text


def test_all_dockerfiles_start_from_one_base_named_by_digest() -> None:
    bases = {base for name in SERVICES for base in re.findall(r"^ARG BASE=(.*)$", _dockerfile(name), re.MULTILINE)}
    assert len(bases) == 1
    assert all(re.fullmatch(r"debian:bookworm-slim@sha256:[0-9a-f]{64}", base) for base in bases)


@pytest.mark.parametrize("name", ["model-server", "tuner"])
def test_the_engines_dockerfiles_install_the_bases_debian_packages(name: str) -> None:
    assert all(package in _dockerfile(name) for package in BASE_PACKAGES)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_dockerfiles_copy_every_members_settings(name: str) -> None:
    copied = set(re.findall(r"^COPY (\S+)/pyproject.toml ", _dockerfile(name), re.MULTILINE))
    assert copied == {member.path.relative_to(REPOSITORY).as_posix() for member in MEMBERS.values()}


def test_a_wheel_becomes_files_and_a_script_with_the_images_interpreter(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x/__init__.py", "")
        archive.writestr("x-1.dist-info/entry_points.txt", "[console_scripts]\nx-tool = x.__main__:main\n")
    unpack_wheel(wheel, tmp_path / "venv")
    assert (tmp_path / "venv/lib/python3.11/site-packages/x/__init__.py").exists()
    script = tmp_path / "venv/bin/x-tool"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[0] == f"#!/{VENV}/bin/python"
    assert "from x.__main__ import main" in script.read_text()
