"""docker-compose.test.yaml stays what `make test-compose` and the test fixtures rely on; no Docker daemon is asked."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_local.command import run
from kaito_local.compose.docker import COMPOSE_FILE, Compose, compose_command
from kaito_local.compose.images import ARM_SETTING, PROGRAM_IMAGES
from kaito_local.compose.selection import LEFT_OUT, SELECTED
from kaito_local.compose.settings import PORTS, container_owner, environment, write_settings
from kaito_local.compose.stack import SETTING, Stack
from kaito_local.locations import REPOSITORY

# bcrypt without a dependency: requires-python ends before 3.13, where the module does.
pytestmark = pytest.mark.filterwarnings("ignore:'crypt' is deprecated")

SERVICES = {"etcd", "kube-apiserver", "registry", "password-registry", "tls-registry", "prometheus", "arm"}
NUMBERS = {name: 20_000 + number for number, name in enumerate(PORTS)}
IMAGES = dict.fromkeys((*(image.setting for image in PROGRAM_IMAGES), ARM_SETTING), "kaito-test/x:1")


@pytest.fixture
def text() -> str:
    return COMPOSE_FILE.read_text()


@pytest.fixture
def services(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "run", Path("/healthcheck"), NUMBERS, IMAGES)


def test_every_service_is_confined_and_watched(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == SERVICES
    for name, service in services.items():
        assert service["user"].startswith("${KAITO_TEST_USER:?"), name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"]["test"][:2] == ["CMD", "/healthcheck"], name
        needs = service.get("depends_on", {}).values()
        assert all(need == {"condition": "service_healthy"} for need in needs), name


def test_nothing_listens_beyond_this_machine(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        ports = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:${KAITO_TEST_") for port in ports), name
        assert ("network_mode" in service) is (name == "prometheus"), name
        assert bool(ports) is (name not in {"etcd", "prometheus"}), name
    (listen,) = [word for word in services["prometheus"]["command"] if word.startswith("--web.listen-address=")]
    assert listen.startswith("--web.listen-address=127.0.0.1:")


def test_every_variable_is_set_and_every_image_is_a_setting(
    text: str, services: dict[str, dict[str, Any]], variables: dict[str, str]
) -> None:
    assert set(re.findall(r"\$\{(\w+)", text)) == set(variables)
    for name, service in services.items():
        found = re.fullmatch(r"\$\{(\w+):-(kaito-test/[\w-]+)\}", service["image"])
        assert found, name
        assert found[1] in IMAGES, name


async def test_compose_itself_accepts_it(tmp_path: Path, variables: dict[str, str]) -> None:
    words = await compose_command()
    if words is None:
        return  # the other tests have read the file as YAML
    file = tmp_path / "variables.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    services = yaml.safe_load(await Compose(words, "check", file)("config"))["services"]
    assert set(services) == SERVICES
    assert {service["image"] for service in services.values()} == {"kaito-test/x:1"}


def test_what_is_mounted_and_named_is_written(tmp_path: Path, services: dict[str, dict[str, Any]]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stack = write_settings(folder, NUMBERS)
    for name, service in services.items():
        inside: dict[str, Path] = {}
        for volume in service["volumes"]:
            source, target = re.sub(r"\$\{(\w+)[^}]*\}", r"<\1>", volume).split(":")[:2]
            if source != "<KAITO_TEST_HEALTHCHECK>":
                inside[target] = Path(source.replace("<KAITO_TEST_FOLDER>", str(folder)))
        assert all(path.is_dir() for path in inside.values()), name
        for word in (*service["command"], *service["healthcheck"]["test"]):
            for target, file in re.findall(r"(/pki|/settings)/([\w.-]+)", word):
                assert (inside[target] / file).is_file(), word
    keys = [*folder.rglob("*.key"), *folder.rglob("*kubeconfig"), *folder.rglob("htpasswd"), folder / "stack.json"]
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert stack.registries["tls"].ca
    assert set(stack.registries) == {"open", "password", "tls"}


def test_each_run_has_secrets_of_its_own(tmp_path: Path, variables: dict[str, str]) -> None:
    runs: list[Stack] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        runs.append(write_settings(tmp_path / name, NUMBERS))
    assert runs[0].registries["password"].password != runs[1].registries["password"].password
    assert (tmp_path / "one/pki/ca.crt").read_bytes() != (tmp_path / "two/pki/ca.crt").read_bytes()
    assert not any(run.registries["password"].password in " ".join(variables.values()) for run in runs)


def test_containers_never_run_as_root() -> None:
    assert container_owner(0, 0) == (65532, 65532)
    assert container_owner(1000, 100) == (1000, 100)


def functions(file: Path) -> set[str]:
    """The tests of a file, methods with their class."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + each.name for each in inner if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


def test_the_selection_names_tests_that_exist() -> None:
    assert all((REPOSITORY / path).exists() for path in SELECTED)
    for test, reason in LEFT_OUT.items():
        file, _, function = test.partition("::")
        assert file in SELECTED, test
        assert function in functions(REPOSITORY / file), test
        assert reason, test


async def test_the_fixtures_read_the_same_setting() -> None:
    registry = REPOSITORY / "libs/oci/src/kaito_oci/testing/docker_registry.py"
    assert f'"{SETTING}"' in registry.read_text()
    assert "test-compose" in await run("make", "-s", "help", cwd=REPOSITORY)
