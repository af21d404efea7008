"""engine_adapters: what a failed call may leave in the engine takes no place for long, and its folder stays until then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubecore.clock import SystemClock
from model_server.adapters.engine_adapters import EngineAdapters, EngineRefusedError
from model_server.adapters.version import Version
from model_server.lifecycle import Lifecycle

pytestmark = pytest.mark.slow  # imports vLLM's request type

A, B = Version("a", "sha256:1", "1"), Version("b", "sha256:2", "1")


class Engine:
    """Holds what is added, whether or not it can say so afterwards."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.silent = 0
        self.forgetful = False
        self.stubborn = False

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
        self._last = 0

    def inc(self, step: int) -> int:
        self._last += step
        return self._last

    def forget(self, version: Version) -> None:
        self.forgotten.append(version)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def adapters(engine: Engine) -> EngineAdapters:
    return EngineAdapters(engine, Models(), Lifecycle(), SystemClock())  # type: ignore[arg-type]


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
