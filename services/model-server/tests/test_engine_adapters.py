"""engine_adapters: what a failed call may leave in the engine takes no place for long, and its folder stays until then.

And who uses a version: sequences in the engine, and requests that may still bring one; not clients who only have to read.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from kubecore.clock import SystemClock
from kubecore.testing.asserts import eventually
from model_server.adapters.engine_adapters import EngineAdapters, EngineRefusedError
from model_server.adapters.served import PublicNames
from model_server.adapters.version import Version
from model_server.admission import AdmissionMiddleware
from model_server.lifecycle import Lifecycle
from model_server.metrics import Metrics
from model_server.vllm_compat import AdapterLeftError

pytestmark = pytest.mark.slow  # imports vLLM's request type

A, B = Version("a", "sha256:1", "1"), Version("b", "sha256:2", "1")
PATIENCE = 0.05


class Sequences:
    """vLLM's list of what is in the engine, by id."""

    def __init__(self) -> None:
        self.request_states: dict[str, Any] = {}

    def add_request(self, request: Any) -> None:
        name = request.lora_request.lora_name if request.lora_request else None
        self.request_states[request.request_id] = SimpleNamespace(lora_name=name)


class Engine:
    """Holds what is added, whether or not it can say so afterwards."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.silent = 0
        self.forgetful = False
        self.stubborn = False
        self.output_processor = Sequences()

    async def add_lora(self, request: Any) -> bool:
        if not self.forgetful:
            self.held.add(request.lora_int_id)
        return True

    async def remove_lora(self, identity: int) -> bool:
        if not self.stubborn:
            self.held.discard(identity)
        return True

    async def list_loras(self) -> set[int]:
        if self.silent:
            self.silent -= 1
            raise RuntimeError("lost in\nbetween")
        return set(self.held)


class Models:
    """Ids and names."""

    def __init__(self) -> None:
        self.lora_id_counter = self
        self.base_model_paths = [SimpleNamespace(name="base")]
        self.forgotten: list[Version] = []
        self.names = PublicNames()
        self._last = 0

    def inc(self, step: int) -> int:
        self._last += step
        return self._last

    def publish(self, version: Version, request: Any, root: str) -> None:
        self.names[version.name] = request

    def withdraw(self, name: str) -> None:
        del self.names[name]

    def forget(self, version: Version) -> None:
        self.forgotten.append(version)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def adapters(engine: Engine, models: Models, lifecycle: Lifecycle) -> EngineAdapters:
    return EngineAdapters(engine, models, lifecycle, SystemClock(), patience=PATIENCE)  # type: ignore[arg-type]


async def test_a_load_without_an_answer_is_cleared_away_at_once(engine: Engine, adapters: EngineAdapters) -> None:
    engine.silent = 1
    with pytest.raises(EngineRefusedError, match="lost in between"):
        await adapters.load(A, Path("/a"))
    assert engine.held == set()
    assert not adapters.may_hold(A)


async def test_or_by_the_next_load(engine: Engine, adapters: EngineAdapters) -> None:
    engine.silent = 2
    with pytest.raises(EngineRefusedError):
        await adapters.load(A, Path("/a"))
    assert adapters.may_hold(A)
    await adapters.load(B, Path("/b"))
    assert not adapters.may_hold(A)
    assert len(engine.held) == 1


async def test_what_is_not_listed_is_not_loaded(engine: Engine, adapters: EngineAdapters) -> None:
    engine.forgetful = True
    with pytest.raises(EngineRefusedError, match="does not list it"):
        await adapters.load(A, Path("/a"))


async def test_what_is_still_listed_is_not_removed(engine: Engine, adapters: EngineAdapters) -> None:
    await adapters.load(A, Path("/a"))
    engine.stubborn = True
    assert not await adapters.remove(A)
    engine.stubborn, engine.silent = False, 1
    assert not await adapters.remove(A)
    assert await adapters.remove(A)
    assert engine.held == set()


class Stream:
    """A streamed answer over the admission layer: look the adapter up, enter the engine, send three pieces."""

    def __init__(self, engine: Engine, models: Models, lifecycle: Lifecycle) -> None:
        self.reads = asyncio.Event()
        """The client takes what is sent to it."""
        self.works = asyncio.Event()
        """What this process does between the first piece and the second one is done."""
        self.works.set()
        self.again = False
        """Enter the engine once more between these two."""
        self.waits = asyncio.Event()
        """A piece waits for the client."""
        self.taken: list[Any] = []
        self._engine = engine
        self._models = models
        self._middleware = AdmissionMiddleware(
            self._answer,
            lifecycle=lifecycle,
            metrics=Metrics(CollectorRegistry()),
            sequences=lambda: 0,
            batch=8,
            rate_limit=False,
        )

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        adapter = self._models.names["a"]
        self._enter("first", adapter)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await self.works.wait()
        if self.again:
            self._enter("second", adapter)
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})

    def _enter(self, identity: str, adapter: Any) -> None:
        request = SimpleNamespace(request_id=identity, lora_request=adapter)
        self._engine.output_processor.add_request(request)

    async def run(self) -> None:
        async def send(message: Any) -> None:
            if len(self.taken) == 1 and not self.reads.is_set():
                self.waits.set()
                await self.reads.wait()
            self.taken.append(message.get("body"))

        await self._middleware({"type": "http", "method": "POST", "path": "/v1/completions"}, None, send)  # type: ignore[arg-type]

    def ends_in_the_engine(self) -> None:
        self._engine.output_processor.request_states.clear()


@pytest.fixture
async def stream(engine: Engine, models: Models, adapters: EngineAdapters, lifecycle: Lifecycle) -> Stream:
    """A stream on version A, which is on its way out."""
    await adapters.load(A, Path("/a"))
    adapters.publish(A, "/a")
    return Stream(engine, models, lifecycle)


async def test_a_client_who_does_not_read_holds_no_version_and_reads_to_the_end_later(
    engine: Engine, adapters: EngineAdapters, stream: Stream
) -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(stream.run())
        await stream.waits.wait()
        adapters.withdraw("a")
        unused = group.create_task(adapters.unused(A))
        await asyncio.sleep(6 * PATIENCE)
        assert not unused.done(), "a sequence in the engine uses it"
        stream.ends_in_the_engine()
        await unused
        assert await adapters.remove(A)
        assert engine.held == set()
        assert not running.done()
        stream.reads.set()
        await running
    assert stream.taken == [None, b"one", b"two", b"end"]


async def test_a_request_that_works_in_this_process_holds_its_version(
    adapters: EngineAdapters, stream: Stream, lifecycle: Lifecycle
) -> None:
    """It may come back to the engine, as a beam search or a call of tools does."""
    stream.works.clear()
    stream.reads.set()
    stream.again = True
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(stream.run())
        await eventually(lambda: len(stream.taken) == 2)
        adapters.withdraw("a")
        stream.ends_in_the_engine()
        unused = group.create_task(adapters.unused(A))
        await asyncio.sleep(6 * PATIENCE)
        assert not unused.done()
        stream.works.set()
        await eventually(lambda: lifecycle.in_flight == 0)
        assert not unused.done(), "its second sequence is in the engine"
        stream.ends_in_the_engine()
        await unused
    assert stream.taken[-1] == b"end"


@pytest.mark.parametrize("loaded_again", [False, True])
async def test_who_comes_back_to_the_engine_too_late_is_refused(
    engine: Engine, adapters: EngineAdapters, stream: Stream, *, loaded_again: bool
) -> None:
    """The engine ends on an adapter whose folder is gone, and on two of one name."""
    stream.again = True

    async def refused() -> None:
        with pytest.raises(AdapterLeftError, match="a@1-s1 left while"):
            await stream.run()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(refused())
        await stream.waits.wait()
        adapters.withdraw("a")
        stream.ends_in_the_engine()
        await adapters.unused(A)
        assert await adapters.remove(A)
        if loaded_again:
            await adapters.load(A, Path("/a"))
            adapters.publish(A, "/a")
        stream.reads.set()
    assert engine.output_processor.request_states == {}


async def test_a_version_that_stays_after_all_is_used_again(
    engine: Engine, adapters: EngineAdapters, stream: Stream
) -> None:
    adapters.withdraw("a")
    engine.stubborn = True
    assert not await adapters.remove(A)
    adapters.publish(A, "/a")
    stream.reads.set()
    await stream.run()
    assert stream.taken[-1] == b"end"
    assert set(engine.output_processor.request_states) == {"first"}
