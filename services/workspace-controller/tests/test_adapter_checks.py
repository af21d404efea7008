"""What a registry's answers mean for a node that is not bought yet, on a registry that says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from kaito_api.meta import Key
from kaito_api.workspace import Workspace
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server
from kubecore.testing.clock import FakeClock
from workspace_controller.adapter_check import AdapterCheck, CheckState
from workspace_controller.adapter_checks import STANDS, AdapterChecks
from workspace_controller.catalog import Catalog
from workspace_controller.settings import AdapterPreflight, Settings

MakeWorkspace = Callable[..., Workspace]
Answer = Callable[[Request], Reply]
PATIENCE = 60.0


def document(status: int, code: str) -> Reply:
    """An error as the distribution specification has it."""
    return Reply(status, body=msgspec.json.encode({"errors": [{"code": code, "message": "so it is"}]}))


def token_wall(status: int) -> Answer:
    """A registry whose token endpoint answers with `status`."""

    def answer(request: Request) -> Reply:
        if request.path.startswith("/token"):
            return Reply(status)
        realm = f"http://{request.headers['host']}/token"
        return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})

    return answer


class Looking:
    """Checks that run, and what they know about one Workspace's only adapter."""

    def __init__(self, checks: AdapterChecks, workspace: Workspace, changed: asyncio.Queue[Key]) -> None:
        self._checks = checks
        self._workspace = workspace
        self._changed = changed

    def now(self) -> AdapterCheck:
        (check,) = self._checks.of(self._workspace).values()
        return check

    async def news(self) -> AdapterCheck:
        """Have the registry asked, which must be due, and return what is known then."""
        self.now()
        async with asyncio.timeout(PATIENCE):
            assert await self._changed.get() == self._workspace.metadata.key
        return self.now()

    async def quiet(self) -> None:
        """Look, and see that nobody is asked: that nothing happens can only be waited for."""
        self.now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await self._changed.get()


@asynccontextmanager
async def looking(
    server: ScriptedServer,
    workspace: MakeWorkspace,
    catalog: Catalog,
    clock: FakeClock,
    preflight: AdapterPreflight = AdapterPreflight.FULL,
) -> AsyncIterator[Looking]:
    given = workspace(f"inference: {{adapters: [{{source: {{name: a, image: '{server.host}/team/a:1'}}}}]}}")
    changed: asyncio.Queue[Key] = asyncio.Queue()
    settings = Settings(plain_http_hosts=frozenset({server.host}), adapter_preflight=preflight)
    checks = AdapterChecks(catalog, settings, changed.put_nowait, clock)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(checks.run())
        yield Looking(checks, given, changed)
        task.cancel()


@pytest.mark.parametrize(
    ("answer", "state", "reason", "advice"),
    [
        (lambda _: document(404, "MANIFEST_UNKNOWN"), "Refused", "NotFound", "push the image there"),
        (lambda _: document(404, "NAME_UNKNOWN"), "Refused", "NotFound", "correct source.image"),
        (lambda _: document(401, "UNAUTHORIZED"), "Refused", "Unauthorized", "source.imagePullSecrets"),
        (
            lambda _: Reply(401, {"WWW-Authenticate": 'Basic realm="r"'}),
            "Refused",
            "Unauthorized",
            "source.imagePullSecrets",
        ),
        (lambda _: document(403, "DENIED"), "Refused", "Denied", "source.imagePullSecrets"),
        (token_wall(401), "Refused", "Unauthorized", "source.imagePullSecrets"),
        (token_wall(403), "Refused", "Denied", "source.imagePullSecrets"),
        # what a proxy or an ingress says in the registry's place
        (lambda _: Reply(404, body=b"default backend - 404"), "Unknown", "", ""),
        (lambda _: Reply(403, body=b"<html>Forbidden</html>"), "Unknown", "", ""),
        (lambda _: Reply(401), "Unknown", "", ""),
        (lambda _: Reply(404, body=b'{"message": "no route"}'), "Unknown", "", ""),
        (token_wall(404), "Unknown", "", ""),
    ],
)
async def test_only_the_registry_itself_refuses(
    answer: Answer, state: str, reason: str, advice: str, workspace: MakeWorkspace, catalog: Catalog
) -> None:
    async with scripted_server(answer) as server, looking(server, workspace, catalog, FakeClock()) as adapter:
        assert adapter.now().state is CheckState.PENDING
        found = await adapter.news()
        assert (found.state, found.reason) == (state, reason)
        assert advice in found.message
        assert "so it is" not in found.message, "what a host answers is not for whoever names the host"
        assert bool(found.look_again) == (state == "Refused")
        assert not any("authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize("pushed", [{"schemaVersion": 2, "config": "no manifest"}, None])
async def test_a_registry_that_refuses_is_asked_again_and_an_image_that_comes_is_seen(
    pushed: object, workspace: MakeWorkspace, catalog: Catalog
) -> None:
    clock, script = FakeClock(), ScriptedRegistry()
    script.overrides.append(lambda _: document(404, "MANIFEST_UNKNOWN"))
    async with scripted_server(script) as server, looking(server, workspace, catalog, clock) as adapter:
        pauses = []
        for _ in range(8):
            pauses.append((await adapter.news()).look_again)
            clock.tick(pauses[-1] + 0.001)
        assert pauses[0] <= 8
        assert all(150 <= pause <= 300 for pause in pauses[-2:]), pauses
        script.overrides.clear()
        if pushed:
            script.add_manifest(pushed, tag="1")
        else:
            script.add_artifact({"README.md": b"no adapter"}, tag="1")
        assert await adapter.news() == AdapterCheck(state=CheckState.UNKNOWN), (
            "it is there: what it is, the pod finds out"
        )


async def test_a_registry_is_left_alone_until_the_pause_is_over(workspace: MakeWorkspace, catalog: Catalog) -> None:
    clock = FakeClock()
    async with scripted_server(token_wall(403)) as server, looking(server, workspace, catalog, clock) as adapter:
        clock.tick((await adapter.news()).look_again - 0.5)
        asked = len(server.requests)
        await adapter.quiet()
        assert len(server.requests) == asked
        clock.tick(1)
        await adapter.news()


async def test_a_refusal_outlives_the_registry_s_silence_but_not_for_ever(
    workspace: MakeWorkspace, catalog: Catalog
) -> None:
    clock, script = FakeClock(), ScriptedRegistry()
    script.overrides.append(lambda _: document(404, "MANIFEST_UNKNOWN"))
    async with scripted_server(script) as server, looking(server, workspace, catalog, clock) as adapter:
        first = await adapter.news()
        script.overrides.append(lambda _: Reply(404, body=b"default backend - 404"))
        clock.tick(STANDS / 2)
        second = await adapter.news()
        assert (second.state, second.reason) == (first.state, first.reason)
        clock.tick(STANDS / 2)
        assert (await adapter.news()).state is CheckState.UNKNOWN


async def test_an_operator_can_leave_it_all_to_the_pod(workspace: MakeWorkspace, catalog: Catalog) -> None:
    refuse = token_wall(401)
    async with scripted_server(refuse) as server:
        async with looking(server, workspace, catalog, FakeClock(), AdapterPreflight.LIMITS) as adapter:
            assert (await adapter.news()).state is CheckState.REFUSED
        asked = len(server.requests)
        async with looking(server, workspace, catalog, FakeClock(), AdapterPreflight.OFF) as adapter:
            with pytest.raises(ValueError, match="not enough values"):
                adapter.now()
        assert len(server.requests) == asked
