"""How long a push is held on to: a GPU node may be paid for meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from adapter_packager import folder
from adapter_packager.access import Access
from adapter_packager.exits import SecretProblem
from adapter_packager.holding import QUIET_SECONDS, Moved, hold_on
from adapter_packager.metrics import Figures
from adapter_packager.package import Format
from adapter_packager.pod_report import PodReport
from adapter_packager.publish import publish
from kaito_oci import Reference, RegistrySettings, errors
from kaito_oci.testing.scripted_registry import ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, ScriptedServer, scripted_server
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock

MakeAdapter = Callable[..., Path]


@pytest.mark.parametrize(
    ("troubles", "hold", "attempts"),
    [
        ([], 0.0, 1),
        ([errors.Unavailable("down")] * 3, 600.0, 4),
        (
            [errors.Unauthorized("who"), errors.Denied("no"), SecretProblem("SecretMissing", "?", retryable=True)],
            600.0,
            4,
        ),
        ([errors.TlsFailed("an authority that nobody has named yet")], 600.0, 2),
        ([errors.Unavailable("down")] * 100, 10.0, (2, 9)),
        ([errors.Unavailable("down")], 0.0, (1, 1)),
        ([errors.Unavailable("down")], None, (1, 1)),
        ([errors.TagImmutable("there")], 600.0, (1, 1)),
        ([errors.DigestMismatch("other")], 600.0, (1, 1)),
    ],
)
async def test_holding_on(troubles: list[Exception], hold: float | None, attempts: int | tuple[int, int]) -> None:
    clock, made, heard = FakeClock(), 0, []
    queue = list(troubles)

    async def attempt(_moved: Moved) -> str:
        nonlocal made
        made += 1
        if queue:
            raise queue.pop(0)
        return "done"

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            swallow(
                hold_on(attempt, seconds=hold, clock=clock, on_trouble=lambda error, left: heard.append((error, left)))
            )
        )
        while not task.done():
            await asyncio.sleep(0)
            if clock.sleepers:
                await clock.advance(40)
    if isinstance(attempts, tuple):
        assert isinstance(task.result(), type(troubles[0]))
        assert attempts[0] <= made <= attempts[1]
    else:
        assert (task.result(), made, len(heard)) == ("done", attempts, attempts - 1)


async def swallow(work: Awaitable[object]) -> object:
    try:
        return await work
    except (errors.OciError, SecretProblem) as error:
        return error


SENDING: dict[str, tuple[Callable[[float], int], float | None]] = {
    "nothing moves": (lambda _: 0, 100 + QUIET_SECONDS),
    "the last byte was before the end": (lambda at: min(int(at), 90), 100 + QUIET_SECONDS),
    "it stands still later": (lambda at: min(int(at), 150), 150 + QUIET_SECONDS),
    "the same bytes again and again": (lambda at: int(at) % 50, 100 + QUIET_SECONDS),
    "bytes move": (int, None),
}


@pytest.mark.parametrize(("bytes_at", "ended"), SENDING.values(), ids=SENDING.keys())
async def test_when_the_time_is_over_only_what_moves_may_finish(
    bytes_at: Callable[[float], int], ended: float | None
) -> None:
    clock = FakeClock()
    start = clock.monotonic()

    async def attempt(moved: Moved) -> str:
        while clock.monotonic() - start < 1000:
            await clock.sleep(5)
            moved(bytes_at(clock.monotonic() - start))
        return "done"

    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            swallow(hold_on(attempt, seconds=100, clock=clock, on_trouble=lambda _error, _left: None))
        )
        while not task.done():
            await clock.advance(5, step=5)
    took = clock.monotonic() - start
    if ended is None:
        assert (task.result(), took) == ("done", 1000)
    else:
        assert isinstance(task.result(), errors.Unavailable)
        assert ended <= took <= ended + 15


@pytest.fixture
def script() -> ScriptedRegistry:
    return ScriptedRegistry()


@pytest.fixture
async def server(script: ScriptedRegistry) -> AsyncIterator[ScriptedServer]:
    async with scripted_server(script) as running:
        yield running


def stands_still(method: str, path: str) -> Callable[[Request], Reply | None]:
    """The answer's first byte comes, and no other."""
    return lambda request: (
        Reply(500, head_pause=3600) if (request.method, path in request.path) == (method, True) else None
    )


@pytest.mark.parametrize(("method", "path"), [("PUT", "/blobs/uploads/"), ("POST", "/blobs/"), ("PUT", "/manifests/")])
async def test_a_registry_that_stands_still_does_not_hold_the_node(
    script: ScriptedRegistry, server: ScriptedServer, make_adapter: MakeAdapter, tmp_path: Path, method: str, path: str
) -> None:
    script.overrides.append(stands_still(method, path))
    access = Access(settings=RegistrySettings(plain_http_hosts={server.host}), docker_config=tmp_path / "none")
    clock = FakeClock()
    pushing = publish(
        folder.read(make_adapter()),
        Reference.parse(f"{server.host}/me/adapter:v1"),
        access,
        layout=Format.IMAGE,
        sign_key=None,
        hold=600.0,
        clock=clock,
        report=PodReport(clock, None, None),
        figures=Figures(clock),
        progress=lambda _done, _total: None,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(swallow(pushing))
        await eventually(lambda: server.seen(method, path), timeout=30)
        clock.tick(600 + QUIET_SECONDS - 1)
        await asyncio.sleep(0)
        assert not task.done()
        clock.tick(1)
        async with asyncio.timeout(30):
            ended = await task
    assert isinstance(ended, errors.Unavailable)
    assert "has taken nothing for 60 s" in str(ended)
