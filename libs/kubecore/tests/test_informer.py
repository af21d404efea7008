"""Fault drills: an informer against a server that misbehaves. What counts is what the cache and the handlers end up with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from prometheus_client import REGISTRY

from kaito_api.core import ConfigMap
from kaito_api.meta import Key
from kaito_api.resources import CONFIGMAPS
from kubecore.backoff import BackoffPolicy
from kubecore.client import Client
from kubecore.errors import TransportError
from kubecore.informer import Event, Informer
from kubecore.reflector import LineSplitter, Timings
from kubecore.testing.asserts import eventually
from kubecore.testing.server import (
    Answer,
    ScriptedServer,
    Step,
    bookmark,
    event,
    listing,
    obj,
    raw,
    reply,
    reset,
    slow,
    status,
    status_body,
    until,
    watch,
)

PATH = "/api/v1/configmaps"
QUICK = BackoffPolicy(base=0.02, cap=0.1)
FAST = Timings(list_timeout=2, backoff=QUICK)


@pytest.fixture
def open_end() -> Step:
    return until(asyncio.Event())


@asynccontextmanager
async def running(informer: Informer[ConfigMap], synced: bool = True) -> AsyncIterator[list[tuple[str, str]]]:
    """Run the informer; yields what its handlers are told, as (type, name)."""
    told: list[tuple[str, str]] = []
    informer.add_handler(lambda change: told.append((change.type.value, change.key.name)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        if synced:
            await informer.wait_synced(30)
        yield told
        task.cancel()


def failures() -> float:
    samples = [
        sample
        for metric in REGISTRY.collect()
        if metric.name == "kubecore_informer_failures"
        for sample in metric.samples
    ]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


def names(informer: Informer[ConfigMap]) -> set[str]:
    return {found.metadata.name for found in informer.list()}


@pytest.fixture
def informer(client: Client) -> Informer[ConfigMap]:
    return Informer(client, CONFIGMAPS, timings=FAST)


async def test_list_then_watch(server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step) -> None:
    server.on("GET", PATH, listing(10, obj("a", 3), obj("b", 4)))
    steps = [event("ADDED", obj("c", 11)), event("MODIFIED", obj("a", 12)), event("DELETED", obj("b", 13))]
    server.on("WATCH", PATH, watch(*steps, open_end))
    async with running(informer) as told:
        await eventually(lambda: names(informer) == {"a", "c"})
    assert told == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c"), ("MODIFIED", "a"), ("DELETED", "b")]
    query = server.last("WATCH").query
    assert query["resourceVersion"] == "10"
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600


ENDINGS: dict[str, Callable[[], list[Step]]] = {
    "regular end": list,
    "RST between events": lambda: [reset],
    "RST inside a line": lambda: [raw(b'{"type":"ADDED","object":{"metadata":{"na'), reset],
    "end inside a line": lambda: [raw(b'{"type":"ADDED","object":{"metadata":{"na')],
    "silent stall": lambda: [until(asyncio.Event())],
    "not JSON": lambda: [raw(b"<html>proxy error</html>\n")],
    "not an event": lambda: [raw(b'{"metadata":{}}\n')],
    "server error event": lambda: [event("ERROR", status_body(500, "InternalError"))],
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_broken_watch_goes_on_where_it_was(
    server: ScriptedServer, client: Client, open_end: Step, ending: str
) -> None:
    silence = 0.4 if ending == "silent stall" else 70.0
    informer = Informer(client, CONFIGMAPS, timings=Timings(silence=silence, backoff=QUICK))
    server.on("GET", PATH, listing(10, obj("a", 3)))
    first = watch(event("ADDED", obj("b", 11)), bookmark(15), *ENDINGS[ending]())
    server.on("WATCH", PATH, first, watch(event("ADDED", obj("c", 16)), open_end))
    before = failures()
    async with running(informer):
        await eventually(lambda: names(informer) == {"a", "b", "c"})
    assert [r.query["resourceVersion"] for r in server.received if r.method == "WATCH"][:2] == ["10", "15"]
    assert server.count("GET") == 1
    if ending == "silent stall":
        assert failures() > before, "and the second watch may have been silent for as long"
    else:
        assert failures() - before == (0 if ending == "regular end" else 1)


EXPIRIES: dict[str, Answer] = {
    "410 as status": status(410, "Expired"),
    "410 as event": watch(event("ERROR", status_body(410, "Expired"))),
    "410 event without code": watch(event("ERROR", {"kind": "Status", "reason": "Expired"})),
}


@pytest.mark.parametrize("expiry", EXPIRIES)
async def test_410_lists_again_and_finds_what_was_missed(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step, expiry: str
) -> None:
    before = listing(10, obj("kept", 3), obj("deleted", 4), obj("changed", 5))
    server.on("GET", PATH, before, listing(90, obj("kept", 3), obj("changed", 50), obj("added", 60)))
    server.on("WATCH", PATH, EXPIRIES[expiry], watch(open_end))
    async with running(informer) as told:
        await eventually(lambda: server.count("WATCH") == 2)
        assert names(informer) == {"kept", "changed", "added"}
    assert told[3:] == [("ADDED", "added"), ("MODIFIED", "changed"), ("DELETED", "deleted")]
    assert server.last("WATCH").query["resourceVersion"] == "90"


async def test_an_endless_410_does_not_spin(server: ScriptedServer, client: Client) -> None:
    informer = Informer(client, CONFIGMAPS, timings=Timings(backoff=BackoffPolicy(base=0.1, cap=10)))
    server.on("GET", PATH, listing(10))
    server.on("WATCH", PATH, status(410, "Expired"))
    async with running(informer):
        await asyncio.sleep(1)
    assert server.count("WATCH") <= 6


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(server: ScriptedServer, client: Client) -> None:
    informer = Informer(client, CONFIGMAPS, timings=Timings(backoff=BackoffPolicy(base=0.1, cap=10)))
    server.on("GET", PATH, listing(10))
    server.on("WATCH", PATH, watch())
    async with running(informer):
        await asyncio.sleep(1)
    assert server.count("WATCH") <= 6


async def test_a_version_that_is_always_refused_is_given_up(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    refused = status(504, "Timeout", "Too large resource version")
    server.on("GET", PATH, listing(1000), listing(10, obj("a", 3)))
    server.on("WATCH", PATH, refused, refused, refused, watch(open_end))
    async with running(informer):
        await eventually(lambda: server.count("WATCH") == 4)
        assert names(informer) == {"a"}
    assert [r.query["resourceVersion"] for r in server.received if r.method == "WATCH"] == ["1000"] * 3 + ["10"]


async def test_only_bookmarks_keep_a_watch_alive_and_current(server: ScriptedServer, client: Client) -> None:
    async def pause(*_: object) -> None:
        await asyncio.sleep(0.3)

    informer = Informer(client, CONFIGMAPS, timings=Timings(silence=2, backoff=QUICK))
    server.on("GET", PATH, listing(10, obj("a", 3)))
    steps = [step for version in range(11, 19) for step in (pause, bookmark(version))]
    server.on("WATCH", PATH, watch(*steps))
    async with running(informer) as told:
        await eventually(lambda: server.count("WATCH") == 2)  # the stream lived 2.4 s, silence is 2 s
    assert told == [("ADDED", "a")]
    assert server.last("WATCH").query["resourceVersion"] == "18"


async def test_401_until_the_token_is_rotated(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    server.token = "not yet first"
    server.on("GET", PATH, listing(10, obj("a", 3)))
    server.on("WATCH", PATH, watch(open_end))
    async with running(informer, synced=False):
        await eventually(lambda: server.count("GET") >= 4)
        assert not informer.synced
        assert "401" in str(informer.reflector.last_error)
        server.token = "first"
        await eventually(lambda: names(informer) == {"a"})
        assert informer.reflector.last_error is None


async def test_bursts_of_errors_end_in_a_synced_cache(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    html = reply("<html>maintenance</html>", 200, content_type="text/html")
    burst = [*[status(500, "InternalError")] * 4, status(429, "TooManyRequests", retry_after=1), html]
    server.on("GET", PATH, *burst, listing(10, obj("a", 3)))
    server.on("WATCH", PATH, *burst[:2], html, watch(event("ADDED", obj("b", 11)), open_end))
    async with running(informer):
        await eventually(lambda: names(informer) == {"a", "b"})
    assert server.count("GET") == 7


async def test_a_list_slower_than_its_deadline_is_tried_again(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    server.on("GET", PATH, slow(30, listing(10)), listing(11, obj("a", 3)))
    server.on("WATCH", PATH, watch(open_end))
    async with running(informer):
        assert names(informer) == {"a"}


async def test_the_server_goes_away_and_comes_back(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    server.on("GET", PATH, listing(10, obj("a", 3)))
    server.on("WATCH", PATH, watch(open_end))
    async with running(informer) as told:
        await eventually(lambda: server.count("WATCH") == 1)
        await server.down()
        await eventually(lambda: informer.reflector.last_error)
        server.forget("WATCH", PATH)
        server.on("WATCH", PATH, watch(event("ADDED", obj("b", 11)), open_end))
        await server.up()
        await eventually(lambda: names(informer) == {"a", "b"})
    assert told == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_line_of_a_megabyte(server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step) -> None:
    server.on("GET", PATH, listing(10))
    server.on("WATCH", PATH, watch(event("ADDED", obj("big", 11, data={"x": "y" * 1_000_000})), open_end))
    async with running(informer):
        await eventually(lambda: names(informer) == {"big"})


async def test_an_object_that_does_not_fit_is_passed_over(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    odd = obj("odd", 12, data=["not", "a", "map"])
    server.on("GET", PATH, listing(10))
    server.on("WATCH", PATH, watch(event("ADDED", obj("a", 11)), event("ADDED", odd)), watch(open_end))
    async with running(informer):
        await eventually(lambda: server.count("WATCH") == 2)
        assert names(informer) == {"a"}
    assert server.last("WATCH").query["resourceVersion"] == "12"


async def test_a_handler_that_raises_stops_nobody(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    def broken(_: Event[ConfigMap]) -> None:
        raise RuntimeError("handler defect")

    informer.add_handler(broken)
    server.on("GET", PATH, listing(10, obj("a", 3)))
    server.on("WATCH", PATH, watch(event("ADDED", obj("b", 11)), open_end))
    async with running(informer) as told:
        await eventually(lambda: told == [("ADDED", "a"), ("ADDED", "b")])


async def test_a_late_handler_hears_of_what_is_there(
    server: ScriptedServer, informer: Informer[ConfigMap], open_end: Step
) -> None:
    server.on("GET", PATH, listing(10, obj("a", 3)))
    server.on("WATCH", PATH, watch(open_end))
    async with running(informer):
        late: list[Event[ConfigMap]] = []
        informer.add_handler(late.append)
        assert [(change.key.name, change.initial) for change in late] == [("a", True)]


async def test_a_list_that_never_comes_is_named(server: ScriptedServer, informer: Informer[ConfigMap]) -> None:
    server.on("GET", PATH, status(403, "Forbidden", "configmaps is forbidden"))
    async with running(informer, synced=False):
        with pytest.raises(TimeoutError, match=r"configmaps could not be listed within 0\.3 s: 403 Forbidden"):
            await informer.wait_synced(0.3)


class TestRecord:
    """Our own writes are seen before the watch brings them, and nobody else's change gets lost for it."""

    @pytest.fixture
    async def live(self, server: ScriptedServer, informer: Informer[ConfigMap]) -> Informer[ConfigMap]:
        informer.replaced([_map("a", 3)], "10")
        return informer

    async def test_a_write_is_visible_at_once_and_its_echo_is_marked(self, live: Informer[ConfigMap]) -> None:
        changes: list[Event[ConfigMap]] = []
        live.record(_map("a", 12))
        live.record(_map("new", 13))
        live.add_handler(changes.append)
        changes.clear()
        assert live.get(Key("default", "a")).metadata.resource_version == "12"
        assert names(live) == {"a", "new"}
        live.changed("MODIFIED", _map("a", 12))
        live.changed("ADDED", _map("new", 13))
        live.changed("MODIFIED", _map("a", 14))
        assert [(change.key.name, change.echo) for change in changes] == [("a", True), ("new", True), ("a", False)]

    async def test_a_change_before_ours_is_still_told(self, live: Informer[ConfigMap]) -> None:
        changes: list[Event[ConfigMap]] = []
        live.add_handler(changes.append)
        changes.clear()
        live.record(_map("a", 12))
        live.changed("MODIFIED", _map("a", 11))
        assert live.get(Key("default", "a")).metadata.resource_version == "12", "the cache went back in time"
        live.changed("MODIFIED", _map("a", 12))
        assert [(change.new.metadata.resource_version, change.echo) for change in changes] == [
            ("12", False),
            ("12", True),
        ]

    async def test_what_the_watch_has_overtaken_is_not_brought_back(self, live: Informer[ConfigMap]) -> None:
        live.changed("DELETED", _map("a", 13))
        live.record(_map("a", 12))
        assert names(live) == set()

    async def test_a_deletion_after_our_write(self, live: Informer[ConfigMap]) -> None:
        live.record(_map("a", 12))
        live.changed("DELETED", _map("a", 13))
        assert names(live) == set()

    async def test_a_deletion_before_our_creation(self, live: Informer[ConfigMap]) -> None:
        live.record(_map("a", 14))
        live.changed("DELETED", _map("a", 13))
        assert names(live) == {"a"}

    async def test_a_list_older_than_our_write_keeps_it(self, live: Informer[ConfigMap]) -> None:
        live.record(_map("new", 30))
        live.replaced([_map("a", 3)], "20")
        assert names(live) == {"a", "new"}
        live.replaced([_map("a", 3)], "40")
        assert names(live) == {"a"}

    async def test_a_list_of_a_restored_etcd_is_believed(self, live: Informer[ConfigMap]) -> None:
        """Its versions begin anew, lower than what the watch had brought: only our own writes can be ahead of a list."""
        live.changed("ADDED", _map("lost", 40))
        live.changed("MODIFIED", _map("a", 41))
        live.replaced([_map("a", 3)], "20")
        assert names(live) == {"a"}
        assert live.get(Key("default", "a")).metadata.resource_version == "3"
        live.changed("MODIFIED", _map("a", 21))
        assert live.get(Key("default", "a")).metadata.resource_version == "21"

    async def test_a_list_that_covers_up_somebody_s_change_tells_of_it(self, live: Informer[ConfigMap]) -> None:
        """The watch was away: 11 was somebody's, 12 is ours, and the list shows 12, which the cache had already."""
        changes: list[Event[ConfigMap]] = []
        live.record(_map("a", 12))
        live.add_handler(changes.append)
        changes.clear()
        live.replaced([_map("a", 12)], "20")
        assert [(change.type, change.key.name, change.echo) for change in changes] == [("MODIFIED", "a", False)]
        changes.clear()
        live.replaced([_map("a", 12)], "30")
        assert changes == [], "told once"


class TestLineSplitter:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    def test_any_cut_gives_the_same_lines(self, size: int) -> None:
        data = b'{"a":1}\n\n{"b":"\xc3\xa4"}\r\n{"c":3}\n'
        splitter = LineSplitter()
        lines = [line for at in range(0, len(data), size) for line in splitter.feed(data[at : at + size])]
        assert lines == [b'{"a":1}', b'{"b":"\xc3\xa4"}\r', b'{"c":3}']
        assert not splitter.incomplete

    def test_an_endless_line_is_an_error(self) -> None:
        splitter = LineSplitter(limit=10)
        splitter.feed(b"12345678\n12345")
        assert splitter.incomplete
        with pytest.raises(TransportError, match="exceeds 10 bytes"):
            splitter.feed(b"678901")


def _map(name: str, version: int) -> ConfigMap:
    return msgspec.convert(obj(name, version), ConfigMap)
