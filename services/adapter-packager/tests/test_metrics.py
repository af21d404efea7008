"""The numbers of a push, while it goes on: against a registry that refuses, loses a line, has a part, answers late."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from adapter_packager import folder
from adapter_packager.access import Access
from adapter_packager.metrics import Figures, Phase
from adapter_packager.package import Format, build
from adapter_packager.pod_report import PodReport
from adapter_packager.publish import publish
from kaito_local.ports import free_ports
from kaito_oci import PushResult, Reference, RegistrySettings
from kaito_oci.testing.docker_registry import DockerRegistry
from kaito_oci.testing.scripted_registry import Override, ScriptedRegistry
from kaito_oci.testing.scripted_server import Reply, Request, scripted_server
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock

MakeAdapter = Callable[..., Path]
Samples = Mapping[str, float]
DENIED = Reply(403, body=b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}')


def samples(page: str) -> Samples:
    """Our series of a page: `kaito_packager_NAME` or `kaito_packager_NAME LABEL`, without the prefix."""
    found = {}
    for family in text_string_to_metric_families(page):
        for each in family.samples:
            if each.name.startswith("kaito_packager_"):
                words = [each.name.removeprefix("kaito_packager_"), *each.labels.values()]
                found[" ".join(words)] = each.value
    return found


def numbers(figures: Figures) -> Samples:
    registry = CollectorRegistry()
    registry.register(figures)
    return samples(generate_latest(registry).decode())


def refusing(times: int, method: str, path: str, reply: Reply) -> Override:
    """Answer the first requests of a kind so."""
    left = [reply] * times
    return lambda request: left.pop() if left and (request.method, path in request.path) == (method, True) else None


class Clock(FakeClock):
    """A pause is over at once, and its time has passed; nothing else takes any."""

    async def sleep(self, seconds: float) -> None:
        self.tick(seconds)
        await asyncio.sleep(0)


async def pushed(host: str, adapter: Path, figures: Figures, clock: Clock, layout: Format) -> PushResult:
    access = Access(settings=RegistrySettings(plain_http_hosts={host}), docker_config=adapter / "none")
    async with asyncio.timeout(60):
        return await publish(
            folder.read(adapter),
            Reference.parse(f"{host}/me/adapter:v1"),
            access,
            layout=layout,
            sign_key=None,
            hold=600.0,
            clock=clock,
            report=PodReport(clock, None, None),
            figures=figures,
            progress=lambda _done, _total: None,
        )


@pytest.mark.parametrize("layout", Format)
async def test_a_push_that_is_refused_at_first(make_adapter: MakeAdapter, layout: Format) -> None:
    script, clock = ScriptedRegistry(), Clock()
    script.overrides.append(refusing(3, "POST", "/blobs/uploads/", DENIED))
    figures, adapter = Figures(clock), make_adapter()
    async with scripted_server(script) as server:
        await pushed(server.host, adapter, figures, clock, layout)
    found = numbers(figures)
    size = sum(blob.descriptor.size for blob in build(folder.read(adapter), layout).blobs)
    assert found["retries_total Denied"] == 3
    assert found["hold_limit_seconds"] == 600
    assert found["hold_seconds"] >= found["phase_seconds_total hold"] >= 3 * 0.8
    assert (found["image_bytes"], found["done_bytes"], found["pushed_bytes_total"]) == (size, size, size)
    assert found["skipped_bytes_total"] == 0


async def test_what_the_registry_has_is_skipped_and_what_is_lost_counts_again(make_adapter: MakeAdapter) -> None:
    """Files are blobs here: one is there already, and the upload of the weights breaks once."""
    script, clock, adapter = ScriptedRegistry(), Clock(), make_adapter()
    package = build(folder.read(adapter), Format.MODELPACK)
    sizes = {blob.descriptor.digest: blob.descriptor.size for blob in package.blobs}
    weights = max(package.blobs, key=lambda blob: blob.descriptor.size)
    there = next(blob for blob in package.blobs[1:] if blob is not weights)
    script.add_blob(there.open().read(1 << 20))

    def breaks(request: Request) -> Reply | None:
        if request.method == "PUT" and request.query.get("digest") == weights.descriptor.digest and request.body:
            return Reply(413)  # a proxy that caps the size of a request: the client goes on in pieces
        return None

    script.overrides.append(breaks)
    figures = Figures(clock)
    async with scripted_server(script) as server:
        await pushed(server.host, adapter, figures, clock, Format.MODELPACK)
    found = numbers(figures)
    assert found["skipped_bytes_total"] == there.descriptor.size
    assert found["done_bytes"] == sum(sizes.values())
    assert found["pushed_bytes_total"] == sum(sizes.values()) - there.descriptor.size + weights.descriptor.size
    assert found["hold_seconds"] == 0
    assert not [name for name in found if name.startswith("retries")]


async def test_pushing_again_sends_nothing(make_adapter: MakeAdapter, registry: DockerRegistry) -> None:
    adapter, clock = make_adapter(), Clock()
    first, second = Figures(clock), Figures(clock)
    await pushed(registry.host, adapter, first, clock, Format.IMAGE)
    await pushed(registry.host, adapter, second, clock, Format.IMAGE)
    assert numbers(first)["pushed_bytes_total"] == numbers(second)["skipped_bytes_total"] > 10_000
    assert numbers(first)["skipped_bytes_total"] == numbers(second)["pushed_bytes_total"] == 0


def test_the_time_of_each_phase_counts_while_it_lasts() -> None:
    clock = FakeClock()
    figures = Figures(clock)
    figures.enter(Phase.READ)
    clock.tick(2)
    figures.begin(60)
    figures.enter(Phase.PUSH)
    clock.tick(30)
    assert numbers(figures)["hold_seconds"] == 0
    figures.retried("RegistryUnavailable")
    clock.tick(7)
    expected = {"read": 2, "sign": 0, "push": 30, "hold": 7}
    assert {name: numbers(figures)[f"phase_seconds_total {name}"] for name in expected} == expected
    assert numbers(figures)["hold_seconds"] == 37
    figures.enter(None)
    clock.tick(100)
    assert {name: numbers(figures)[f"phase_seconds_total {name}"] for name in expected} == expected


async def scrape(session: aiohttp.ClientSession, port: int) -> Samples:
    try:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200
            return samples(await answer.text())
    except aiohttp.ClientConnectionError:
        return {}


@pytest.mark.slow
async def test_the_page_of_a_push_that_is_held_and_then_slow(make_adapter: MakeAdapter) -> None:
    """The program itself, scraped: no rights until the test gives them, then an answer that the test holds back."""
    script, granted, read = ScriptedRegistry(), False, asyncio.Event()

    def registry(request: Request) -> Reply:
        if request.method == "POST" and not granted:
            return DENIED
        reply = script(request)
        return Reply(201, after=read) if request.method == "PUT" and "/manifests/" in request.path else reply

    (port,) = free_ports(1)
    async with scripted_server(registry) as server, aiohttp.ClientSession() as session:
        words: list[Any] = [make_adapter(), f"{server.host}/me/adapter:v1", "--plain-http", server.host]
        words += ["--hold", "120", "--metrics-port", port]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter_packager", "push", *map(str, words), stdout=PIPE, stderr=PIPE
        )

        async def held() -> Samples | None:
            found = await scrape(session, port)
            return found if found.get("retries_total Denied", 0) >= 2 else None

        waiting = await eventually(held, timeout=60)
        assert 0 < waiting["phase_seconds_total hold"] <= waiting["hold_seconds"] < waiting["hold_limit_seconds"] == 120
        assert (waiting["pushed_bytes_total"], waiting["done_bytes"]) == (0, 0)
        granted = True

        async def sent() -> Samples | None:
            found = await scrape(session, port)
            return found if found and found["pushed_bytes_total"] == found.get("image_bytes") else None

        late = await eventually(sent, timeout=60)
        assert late["pushed_bytes_total"] > 10_000
        assert late["phase_seconds_total push"] > 0
        read.set()
        await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert await scrape(session, port) == {}


async def test_a_port_that_is_taken_fails_no_push(
    make_adapter: MakeAdapter, registry: DockerRegistry, run: Callable[..., Any]
) -> None:
    taken = await asyncio.start_server(lambda _reader, writer: writer.close(), port=0, host="0.0.0.0")
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        code, out, _ = await run(
            "push", make_adapter(), f"{registry.host}/me/a:v1", "--plain-http", registry.host, "--metrics-port", port
        )
    assert (code, "@sha256:" in out) == (0, True)
