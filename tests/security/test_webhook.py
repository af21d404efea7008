"""The chart's webhook on a real apiserver: its words reach the user, and whatever state it is in, nothing is blocked.

The configuration is the chart's, with an address in place of the Service: nothing routes Services here.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from kaito_api.meta import Key
from kaito_api.resources import WORKSPACES
from kaito_local.binaries import ensure
from kaito_local.ports import free_ports
from kubecore.client import Client
from kubecore.clock import SystemClock
from kubecore.config import load_config
from kubecore.testing.asserts import eventually
from kubecore.transport import Transport
from workspace_controller.catalog_files import load_catalog
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.settings import Settings
from workspace_controller.webhook_certificate import LIFETIME, RENEW_BEFORE, issue
from workspace_controller.webhook_trust import CONFIGURATIONS, SPREAD_SECONDS, WebhookTrust
from workspace_controller.wiring import wire

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

RELEASE = "kaito-security"
SERVICE = "workspace-controller"
CONFIGURATION = "workspace-controller.kaito.sh"
PATH = "/validate/workspace.kaito.sh"
WORKSPACE = """
apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: NAME, namespace: NAMESPACE}
resource:
  instanceType: Standard_NC24ads_A100_v4
  labelSelector: {matchLabels: {apps: phi}}
inference:
  preset: {name: PRESET}
"""
GOOD, WRONG = "phi-3-mini-4k-instruct", "phi-99"


class User:
    """kubectl, with what it prints on stderr."""

    def __init__(self, apiserver: Any, namespace: str) -> None:
        self._kubeconfig = apiserver.kubeconfig
        self._namespace = namespace
        self._number = 0

    async def __call__(self, preset: str, **more: Any) -> tuple[int, str]:
        """Create a Workspace; return the exit code and the words."""
        self._number += 1
        text = WORKSPACE.replace("NAMESPACE", self._namespace).replace("NAME", f"w{self._number}")
        body = yaml.safe_load(text.replace("PRESET", preset))
        body["resource"] |= more
        kubectl = (await ensure(("kubectl",)))["kubectl"]
        words = [str(kubectl), "--kubeconfig", str(self._kubeconfig), "create", "-f", "-"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        _, err = await asyncio.wait_for(process.communicate(json.dumps(body).encode()), 60)
        assert process.returncode is not None
        return process.returncode, err.decode()


@pytest.fixture
def user(apiserver: Any, namespace: str) -> User:
    return User(apiserver, namespace)


@pytest.fixture
async def configured(apiserver: Any, render: Any, namespace: str) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Returns a function that installs the chart's configuration for a webhook on that port of this machine."""
    objects = await render(namespace=RELEASE)
    (found,) = [each for each in objects if each["kind"] == "ValidatingWebhookConfiguration"]
    (hook,) = found["webhooks"]
    assert (hook["failurePolicy"], hook["timeoutSeconds"], hook["sideEffects"]) == ("Ignore", 2, "None")
    assert [rule["resources"] for rule in hook["rules"]] == [["workspaces"]], "never asked about status"

    async def install(port: int) -> None:
        hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{PATH}"}
        hook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        await apiserver.kubectl("apply", "-f", "-", stdin=json.dumps(found))

    yield install
    await apiserver.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=json.dumps(found))


@asynccontextmanager
async def replica(kubeconfig: Path, port: int, name: str) -> AsyncIterator[None]:
    """A standby of the controller: it does not lead, and answers reviews all the same."""
    process = ProcessSettings(
        health_port=0,
        metrics_port=0,
        webhook_port=port,
        webhook_configuration=CONFIGURATION,
        webhook_host="127.0.0.1",
        replica=name,
    )
    async with Transport(load_config(str(kubeconfig)), user_agent=SERVICE) as link:
        wired = await wire(Client(link, lambda: False), load_catalog(None), Settings(), process)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wired.manager.run())
            yield
            wired.manager.stop()
            await task


async def test_errors_and_warnings_reach_the_user(
    apiserver: Any, render: Any, log_in: Any, release_of: Any, configured: Any, user: User, client: Client
) -> None:
    """With the right that the chart gives, without a Secret, and again after a hand has emptied the bundle."""
    (port,) = free_ports(1)
    async with release_of(await render(namespace=RELEASE)) as release:
        kubeconfig = await log_in(RELEASE, SERVICE)
        await configured(port)
        async with replica(kubeconfig, port, "one"):

            async def refused() -> str:
                code, words = await user(WRONG)
                return words if code else ""

            words = await eventually(refused, timeout=30)
            assert "inference.preset.name" in words
            assert "did you mean" in words

            async def warned() -> bool:
                """The apiserver does not wait for an answer that takes longer than two seconds."""
                code, words = await user(GOOD, preferredNodes=["mine"])
                assert code == 0, words
                return "Warning: resource.preferredNodes is deprecated" in words

            await eventually(warned, timeout=30)
            empty = {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}
            await client.patch(CONFIGURATIONS, Key("", CONFIGURATION), [empty])
            assert await eventually(refused, timeout=30)

        def asked() -> set[str]:
            used = release.record(SERVICE).used
            return {right.verb for right in used if right.resource == "validatingwebhookconfigurations"}

        await eventually(lambda: asked() == {"list", "watch", "patch"}, timeout=30)
        assert not release.record(SERVICE).denied


@asynccontextmanager
async def impostor(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], folder: Path
) -> AsyncIterator[tuple[int, bytes]]:
    """A webhook that answers as it likes; yields its port and the bundle that trusts it."""
    issued = issue("127.0.0.1", "impostor", datetime.now(UTC))
    (folder / "crt").write_bytes(issued.certificate)
    (folder / "key").write_bytes(issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    app = web.Application()
    app.add_routes([web.post(PATH, answer)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1], issued.certificate
    finally:
        await runner.cleanup()


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def malformed(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"{]", content_type="application/json")


async def failing(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def huge(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b" " * (8 << 20), content_type="application/json")


@pytest.mark.parametrize("answer", [slow, malformed, failing, huge])
async def test_an_ill_webhook_blocks_nothing(
    apiserver: Any, configured: Any, user: User, client: Client, tmp_path: Path, answer: Any
) -> None:
    import base64

    asked = asyncio.Event()

    async def counted(request: web.Request) -> web.StreamResponse:
        asked.set()
        return await answer(request)

    async with impostor(counted, tmp_path) as (port, trusted):
        await configured(port)
        step = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": base64.b64encode(trusted).decode()}
        await client.patch(CONFIGURATIONS, Key("", CONFIGURATION), [step])

        async def accepted() -> bool:
            """Every attempt is accepted; the last one after the webhook has been asked."""
            code, words = await user(WRONG)
            assert code == 0, words
            return asked.is_set()

        await eventually(accepted, timeout=60)


@pytest.mark.parametrize("state", ["nobody listens", "unknown certificate"])
async def test_an_absent_or_untrusted_webhook_blocks_nothing(
    apiserver: Any, configured: Any, user: User, tmp_path: Path, state: str
) -> None:
    async with impostor(failing, tmp_path) as (port, _):
        await configured(port if state == "unknown certificate" else free_ports(1)[0])
        for _ in range(3):
            code, words = await user(WRONG)
            assert code == 0, words


async def test_status_finalizers_and_deletion_are_never_asked_about(
    apiserver: Any, configured: Any, client: Client, user: User, namespace: str, tmp_path: Path
) -> None:
    """A webhook that would refuse everything (failurePolicy Fail, to show it) does not hear of them."""
    code, words = await user(GOOD)
    assert code == 0, words
    key = Key(namespace, "w1")
    await client.patch(WORKSPACES, key, {"metadata": {"finalizers": ["kaito.sh/test"]}})
    await configured(free_ports(1)[0])
    fail = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]
    await client.patch(CONFIGURATIONS, Key("", CONFIGURATION), fail)

    async def in_force() -> bool:
        code, words = await user(GOOD)
        return code != 0 and "validation.workspace.kaito.sh" in words

    await eventually(in_force, timeout=30)
    await client.patch(WORKSPACES, key, {"status": {"state": "Pending"}}, subresource="status")
    await client.delete(WORKSPACES, key)
    await client.patch(WORKSPACES, key, {"metadata": {"finalizers": None}})


class Calendar(SystemClock):
    """A clock that a test moves by days; waiting takes no time once the renewal's spread is asked for."""

    def __init__(self) -> None:
        self.ahead = timedelta()
        self.moved = asyncio.Event()

    def now(self) -> datetime:
        return super().now() + self.ahead

    async def sleep(self, seconds: float) -> None:
        if seconds == SPREAD_SECONDS:
            return
        await self.moved.wait()
        self.moved.clear()


async def test_a_certificate_is_renewed_before_it_expires(
    apiserver: Any, configured: Any, client: Client, tmp_path: Path
) -> None:
    await configured(1)
    clock = Calendar()
    trust = WebhookTrust(
        client, configuration=CONFIGURATION, host="127.0.0.1", replica="r", folder=tmp_path, clock=clock
    )

    async def published() -> bytes:
        import base64

        found = await client.get(CONFIGURATIONS, Key("", CONFIGURATION))
        return base64.b64decode(found.webhooks[0].client_config.ca_bundle)

    first = (tmp_path / "tls.crt").read_bytes()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(trust.run())

        async def stands(certificate: bytes) -> bool:
            return certificate in await published()

        await eventually(lambda: stands(first), timeout=30)
        clock.ahead = LIFETIME - RENEW_BEFORE + timedelta(minutes=1)
        clock.moved.set()

        async def renewed() -> bytes:
            return (tmp_path / "tls.crt").read_bytes().replace(first, b"")

        second = await eventually(renewed, timeout=30)
        await eventually(lambda: stands(second), timeout=30)
        running.cancel()
