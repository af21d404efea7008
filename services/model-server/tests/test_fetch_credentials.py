"""Pull Secrets that come later, or are closed to the pod at first: waited for in the container, which may not end for good."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kaito_api.report import Report, decode
from kaito_oci import CredentialSource, Reference
from kaito_oci.testing.docker_registry import docker_registry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock
from kubecore.transport import Transport
from model_server.exits import ExitCode, FatalError
from model_server.fetch import credentials
from model_server.reporter import Reporter

pytestmark = pytest.mark.slow  # sockets and a process that are waited for

SECRET = "/api/v1/namespaces/ns/secrets/pull"
POD = "/api/v1/namespaces/ns/pods/job-1"
LOGIN = b'{"auths":{"ghcr.io":{"auth":"dTpw"}}}'


def json_reply(value: Any, code: int = 200) -> Reply:
    return Reply(code, {"Content-Type": "application/json"}, json.dumps(value).encode())


def refused(code: int, reason: str) -> Reply:
    details = {"name": "pull", "kind": "secrets"}
    document = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return json_reply({**document, "details": details}, code)


def secret(document: bytes, kind: str = "kubernetes.io/dockerconfigjson") -> Reply:
    data = {".dockerconfigjson": base64.b64encode(document).decode()}
    metadata = {"name": "pull", "namespace": "ns"}
    return json_reply({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data})


FORBIDDEN, ABSENT = refused(403, "Forbidden"), refused(404, "NotFound")


class Apiserver:
    """One Secret (or why not), and the reports of one Pod in the order in which they came."""

    def __init__(self) -> None:
        self.secret = FORBIDDEN
        self.reports: list[Report] = []

    def __call__(self, request: Request) -> Reply:
        if request.method == "GET" and request.path == SECRET:
            return self.secret
        if request.method == "PATCH" and request.path == POD:
            [text] = json.loads(request.body)["metadata"]["annotations"].values()
            report = decode(text)
            assert report is not None
            self.reports.append(report)
            return json_reply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "job-1", "namespace": "ns"}})
        return ABSENT


@pytest.fixture
def script() -> Apiserver:
    return Apiserver()


@pytest.fixture
async def api(script: Apiserver) -> AsyncIterator[ScriptedServer]:
    async with scripted_server(script) as running:
        yield running


@pytest.fixture
def kubeconfig(api: ScriptedServer, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://{api.host}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    path.write_text(json.dumps(config))
    return path


class Reading:
    """One `credentials.read` in the background, with a clock that the test moves."""

    def __init__(self, client: Client, group: asyncio.TaskGroup) -> None:
        self.clock = FakeClock()
        self.reporter = Reporter(clock=self.clock, annotate=None, termination_log=Path(os.devnull))
        self.reporter.state("Pulling", message="oci://ghcr.io/a/b:1")
        self.task = group.create_task(self._read(client))

    async def _read(self, client: Client) -> CredentialSource | FatalError:
        try:
            return await credentials.read(client, "ns", ["pull"], clock=self.clock, reporter=self.reporter)
        except FatalError as error:
            return error

    async def waits(self) -> None:
        await eventually(lambda: self.clock.sleepers, timeout=30)

    async def end(self) -> CredentialSource | FatalError:
        while not self.task.done():
            await eventually(lambda: self.clock.sleepers or self.task.done(), timeout=30)
            self.clock.tick(20)
        return self.task.result()


PASSES = {
    "a right that is not granted yet": (FORBIDDEN, "may not read"),
    "a Secret that is not there yet": (ABSENT, "no Secret"),
    "an apiserver that is away": (Reply(200, body=b"<html>a proxy</html>"), "cannot be read"),
    "an apiserver in trouble": (refused(500, "InternalError"), "cannot be read"),
}


@pytest.mark.parametrize(("trouble", "words"), PASSES.values(), ids=PASSES.keys())
async def test_what_may_pass_is_waited_for(script: Apiserver, kubeconfig: Path, trouble: Reply, words: str) -> None:
    script.secret = trouble
    async with Transport(load_config(str(kubeconfig)), user_agent="t") as transport, asyncio.TaskGroup() as group:
        reading = Reading(Client(transport), group)
        await reading.waits()
        said = reading.reporter.report
        assert (said.state, said.reason) == ("Pulling", "WaitingForAccess")
        assert words in said.message
        script.secret = secret(LOGIN)
        found = await reading.end()
        assert not isinstance(found, FatalError), found
        assert found.candidates(Reference.parse("ghcr.io/a/b:1"))
        said = reading.reporter.report
        assert (said.state, said.reason, said.message) == ("Pulling", "", "oci://ghcr.io/a/b:1")


async def test_after_its_patience_the_next_attempt_goes_on(script: Apiserver, kubeconfig: Path) -> None:
    async with Transport(load_config(str(kubeconfig)), user_agent="t") as transport, asyncio.TaskGroup() as group:
        reading = Reading(Client(transport), group)
        ended = await reading.end()
        assert isinstance(ended, FatalError)
        assert (ended.code, ended.reason) == (ExitCode.REGISTRY_UNAVAILABLE, "WaitingForAccess")
        assert "may not read the Secret ns/pull" in str(ended)


async def test_what_only_a_change_of_the_secret_repairs_ends_at_once(script: Apiserver, kubeconfig: Path) -> None:
    script.secret = secret(LOGIN, "Opaque")
    async with Transport(load_config(str(kubeconfig)), user_agent="t") as transport, asyncio.TaskGroup() as group:
        ended = await Reading(Client(transport), group).task
        assert isinstance(ended, FatalError)
        assert (ended.code, ended.reason) == (ExitCode.ACCESS_DENIED, "AccessDenied")


async def test_the_command_goes_on_when_the_right_comes(script: Apiserver, kubeconfig: Path, tmp_path: Path) -> None:
    storage, log = tmp_path / "registry", tmp_path / "termination-log"
    storage.mkdir()
    async with docker_registry(storage, password=True) as registry:
        arguments = [f"oci://{registry.host}/team/rows:1", "--to", str(tmp_path), "--data", "--workspace", "ns/w"]
        arguments += ["--plain-http", registry.host, "--pull-secret", "pull"]
        pod = {"KUBECONFIG": str(kubeconfig), "POD_NAME": "job-1", "POD_NAMESPACE": "ns"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "model_server", "fetch", *arguments),
            env=os.environ | pod | {"MODEL_SERVER_TERMINATION_LOG": str(log)},
        )
        waiting = await eventually(lambda: [r for r in script.reports if r.reason == "WaitingForAccess"], timeout=60)
        assert waiting[0].state == "Pulling"
        script.secret = secret(registry.dockerconfigjson())
        # The login works, and nobody pushed these rows.
        assert await asyncio.wait_for(process.wait(), 100) == ExitCode.WEIGHTS_MISSING, log.read_text()
