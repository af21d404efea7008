"""In a Pod: the Secret over the API, the report on the Pod, holding on. The apiserver is scripted here."""

import asyncio
import base64
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_packager.arguments import parse
from adapter_packager.cli import main
from kaito_api.report import Report, decode
from kaito_oci.testing.docker_registry import DockerRegistry
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server
from kubecore.testing.asserts import eventually

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

MakeAdapter = Callable[..., Path]
SECRET = "/api/v1/namespaces/ns/secrets/push"
POD = "/api/v1/namespaces/ns/pods/job-1"


class FakeApiserver:
    """Two objects: the Secret (or why not) and the Pod's reports in the order in which they came."""

    def __init__(self) -> None:
        self.secret: Reply = status(404, "NotFound")
        self.patch_status = 200
        self.reports: list[Report] = []

    def __call__(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == SECRET:
            return self.secret
        if request.method == "PATCH" and request.path == POD:
            [(key, text)] = json.loads(request.body)["metadata"]["annotations"].items()
            report = decode(text)
            assert report is not None
            assert key in {"kaito.sh/report.adapter-packager", "kaito.sh/report.adapter-packager-check"}
            if self.patch_status != 200:
                return status(self.patch_status, "Forbidden")
            self.reports.append(report)
            return json_reply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job-1", "namespace": "ns"}})
        return status(404, "NotFound")

    def give(self, document: bytes, kind: str = "kubernetes.io/dockerconfigjson") -> None:
        data = {".dockerconfigjson": base64.b64encode(document).decode()}
        self.secret = json_reply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": kind,
                "metadata": {"name": "push", "namespace": "ns"},
                "data": data,
            }
        )


def json_reply(value: Any, code: int = 200) -> Reply:
    return Reply(code, {"Content-Type": "application/json"}, json.dumps(value).encode())


def status(code: int, reason: str) -> Reply:
    details = {"name": "push", "kind": "secrets"}
    whole = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": code,
        "details": details,
    }
    return json_reply(whole, code)


@pytest.fixture
def apiserver_script() -> FakeApiserver:
    return FakeApiserver()


@pytest.fixture
async def api(apiserver_script: FakeApiserver) -> AsyncIterator[ScriptedServer]:
    async with scripted_server(apiserver_script) as running:
        yield running


class Pod:
    """Starts the program as the container of a Pod."""

    def __init__(self, folder: Path, plain: str) -> None:
        self.log = folder / "termination-log"
        self._plain = plain

    async def start(self, *arguments: object) -> asyncio.subprocess.Process:
        options = ["--push-secret", "push", "--plain-http", self._plain, "--termination-log", str(self.log)]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter_packager", *map(str, arguments), *options, stdout=PIPE, stderr=PIPE
        )

    async def run(self, *arguments: object) -> int:
        """In this process: a start costs a second."""
        options = ["--push-secret", "push", "--plain-http", self._plain, "--termination-log", str(self.log)]
        return await asyncio.wait_for(main(parse([*map(str, arguments), *options])), 50)

    @property
    def last_word(self) -> Report:
        report = decode(self.log.read_text())
        assert report is not None
        return report


@pytest.fixture
def pod(
    tmp_path: Path,
    api: ScriptedServer,
    locked_registry: DockerRegistry,
    kubeconfig: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Pod:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(f"http://{api.host}")))
    monkeypatch.setenv("POD_NAME", "job-1")
    monkeypatch.setenv("POD_NAMESPACE", "ns")
    return Pod(tmp_path, locked_registry.host)


async def test_push_reports_progress_and_the_digest(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod
) -> None:
    apiserver_script.give(locked_registry.dockerconfigjson())
    name = f"{locked_registry.host}/me/adapter:v1"
    assert await pod.run("check", name) == 0
    assert pod.last_word.state == "Done"
    assert await pod.run("push", make_adapter(), name) == 0
    assert apiserver_script.reports[-1] == pod.last_word
    assert pod.last_word.state == "Done"
    output = pod.last_word.output
    assert output is not None
    assert (output.image, output.digest[:7], output.size_bytes > 10_000) == (name, "sha256:", True)
    assert {"Checking", "Pushing"} & {report.state for report in apiserver_script.reports}


@pytest.mark.parametrize(
    ("prepare", "reason", "words"),
    [
        (lambda _script, _registry: None, "SecretMissing", "does not exist"),
        (lambda script, _: script.give(b"{}", "Opaque"), "SecretInvalid", "type Opaque"),
        (lambda script, _: script.give(b"junk hush-hush"), "SecretInvalid", "docker config"),
        (lambda script, _: script.give(b'{"auths":{"ghcr.io":{"auth":"dTpw"}}}'), "SecretInvalid", "no entry for"),
        (lambda script, registry: script.give(registry.dockerconfigjson(password="no")), "Unauthorized", "credentials"),
        (lambda script, _: setattr(script, "secret", status(403, "Forbidden")), "WaitingForAccess", "may not read"),
    ],
)
async def test_each_trouble_with_the_secret_has_its_reason(
    make_adapter: MakeAdapter,
    apiserver_script: FakeApiserver,
    locked_registry: DockerRegistry,
    pod: Pod,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[FakeApiserver, DockerRegistry], object],
    reason: str,
    words: str,
) -> None:
    prepare(apiserver_script, locked_registry)
    for command in (("check",), ("push", make_adapter())):
        code = await pod.run(*command, f"{locked_registry.host}/me/adapter:v1", "--hold", "0")
        assert (code, pod.last_word.state, pod.last_word.reason) == (72, "Failed", reason)
        assert words in pod.last_word.message
        assert "hush-hush" not in pod.last_word.message + capsys.readouterr().err


MOUNTED: dict[str, tuple[dict[str, bytes], str, str]] = {
    "no Secret yet": ({}, "SecretMissing", "does not exist"),
    "another type": ({"username": b"me", "password": b"hush-hush"}, "SecretInvalid", "has password, username and no"),
    "junk": ({".dockerconfigjson": b"junk hush-hush"}, "SecretInvalid", "docker config"),
    "another registry": (
        {".dockerconfigjson": b'{"auths":{"ghcr.io":{"auth":"dTpw"}}}'},
        "SecretInvalid",
        "no entry for",
    ),
}


@pytest.mark.parametrize(("keys", "reason", "words"), MOUNTED.values(), ids=MOUNTED.keys())
async def test_a_mounted_secret_that_cannot_be_used(
    locked_registry: DockerRegistry, pod: Pod, tmp_path: Path, keys: dict[str, bytes], reason: str, words: str
) -> None:
    folder = tmp_path / "secret"
    (folder / "..2026").mkdir(parents=True)  # as kubelet lays it out
    for name, content in keys.items():
        (folder / name).write_bytes(content)
    name = f"{locked_registry.host}/me/adapter:v1"
    assert await pod.run("check", name, "--hold", "0", "--push-secret-folder", folder) == 72
    assert (pod.last_word.reason, words in pod.last_word.message) == (reason, True), pod.last_word.message
    assert "hush-hush" not in pod.last_word.message


async def test_a_secret_that_is_mounted_later_lets_the_check_through(
    apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod, tmp_path: Path
) -> None:
    folder = tmp_path / "secret"
    name = f"{locked_registry.host}/me/adapter:v1"
    process = await pod.start("check", name, "--hold", "30", "--push-secret-folder", folder)
    await eventually(lambda: [r for r in apiserver_script.reports if r.reason == "SecretMissing"], timeout=60)
    folder.mkdir()
    (folder / ".dockerconfigjson").write_bytes(locked_registry.dockerconfigjson())
    await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, pod.last_word.state) == (0, "Done")


async def test_a_repaired_secret_lets_a_waiting_push_through(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod
) -> None:
    process = await pod.start("push", make_adapter(), f"{locked_registry.host}/me/adapter:v1", "--hold", "30")
    waiting = await eventually(
        lambda: [report for report in apiserver_script.reports if report.reason == "SecretMissing"], timeout=60
    )
    assert waiting[0].state == "Pushing"
    assert "trying for" in waiting[0].message
    apiserver_script.give(locked_registry.dockerconfigjson())
    await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, pod.last_word.state, pod.last_word.reason) == (0, "Done", "")


async def test_a_pod_that_is_stopped_says_so(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod
) -> None:
    process = await pod.start("push", make_adapter(), f"{locked_registry.host}/me/adapter:v1", "--hold", "60")
    await eventually(lambda: [report for report in apiserver_script.reports if report.reason], timeout=60)
    process.terminate()
    await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, pod.last_word.state, pod.last_word.reason) == (143, "Failed", "Interrupted")
    assert apiserver_script.reports[-1] == pod.last_word


async def test_reports_that_are_lost_do_not_fail_a_push(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod
) -> None:
    apiserver_script.give(locked_registry.dockerconfigjson())
    apiserver_script.patch_status = 403
    code = await pod.run("push", make_adapter(), f"{locked_registry.host}/me/adapter:v1")
    assert (code, pod.last_word.state, apiserver_script.reports) == (0, "Done", [])


async def test_an_adapter_that_cannot_be_served_is_said_with_its_reason(
    make_adapter: MakeAdapter, locked_registry: DockerRegistry, pod: Pod
) -> None:
    path = make_adapter(config={"use_dora": True})
    code = await pod.run("push", path, f"{locked_registry.host}/me/adapter:v1")
    assert (code, pod.last_word.reason) == (65, "MethodUnsupported")


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
async def test_what_nobody_thought_of_is_said_too(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod, file: str
) -> None:
    """A disk that fails: reading a process's unmapped memory gives the same error."""
    apiserver_script.give(locked_registry.dockerconfigjson())
    path = make_adapter()
    (path / file).unlink()
    (path / file).symlink_to("/proc/self/mem")
    process = await pod.start("push", path, f"{locked_registry.host}/me/adapter:v1")
    _, err = await asyncio.wait_for(process.communicate(), 50)
    assert (process.returncode, pod.last_word.state, pod.last_word.reason) == (1, "Failed", "Unexpected")
    assert "Input/output error" in pod.last_word.message
    assert apiserver_script.reports[-1] == pod.last_word
    logged = [json.loads(line) for line in err.decode().splitlines() if line.startswith("{")]
    assert [line["message"] for line in logged] == ["unexpected error"]
    assert "Traceback" in logged[0]["error"]


async def test_the_cause_of_a_lost_report_is_logged(
    apiserver_script: FakeApiserver, locked_registry: DockerRegistry, pod: Pod
) -> None:
    apiserver_script.give(locked_registry.dockerconfigjson())
    apiserver_script.patch_status = 403
    process = await pod.start("check", f"{locked_registry.host}/me/adapter:v1")
    _, err = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0
    logged = [json.loads(line) for line in err.decode().splitlines()]
    assert {line["message"] for line in logged} == {"report not written"}
    assert all("403" in line["error"] or "Forbidden" in line["error"] for line in logged), logged


DENIED = b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}'


@pytest.mark.parametrize("rights", ["none to push", "given while it holds on"])
async def test_a_login_without_push_rights(
    make_adapter: MakeAdapter, apiserver_script: FakeApiserver, pod: Pod, rights: str
) -> None:
    """The registry knows who it is, and lets them read only."""
    store, granted = ScriptedRegistry(), False

    def registry(request: Request) -> Reply:
        if request.headers.get("authorization") != "Basic bWU6cHc=":
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        if request.method == "POST" and not granted:
            return Reply(403, body=DENIED)
        return store(request)

    async with scripted_server(registry) as server:
        apiserver_script.give(json.dumps({"auths": {server.host: {"auth": "bWU6cHc="}}}).encode())
        where = [f"{server.host}/me/adapter:v1", "--plain-http", server.host]
        if rights == "none to push":
            for command in (["check"], ["push", make_adapter()]):
                assert await pod.run(*command, *where, "--hold", "0") == 72
                said = pod.last_word
                assert (said.state, said.reason) == ("Failed", "Denied")
                assert "the registry denies access: 403 (DENIED requested access" in said.message
            assert (store.blobs, store.manifests) == ({}, {})
            return
        async with asyncio.TaskGroup() as group:
            pushing = group.create_task(pod.run("push", make_adapter(), *where, "--hold", "40"))
            await eventually(lambda: [r for r in apiserver_script.reports if r.reason == "Denied"], timeout=60)
            granted = True
        assert pushing.result() == 0
        assert "v1" in store.manifests
