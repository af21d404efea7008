"""retirement: a version that is wanted again stays as soon as it can, also where the engine does not let it go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kubecore.clock import SystemClock
from model_server.adapters.engine_adapters import EngineAdapters
from model_server.adapters.retirement import Retirements
from model_server.adapters.version import Version
from model_server.lifecycle import Lifecycle

pytestmark = pytest.mark.slow  # imports vLLM's request type

VERSION = Version("a", "sha256:1", "1")


class Engine:
    """Keeps what it should remove while it is `stubborn`, and says so when it is asked."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.stubborn = True
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.output_processor = SimpleNamespace(request_states={}, add_request=None)  # no sequences here

    async def add_lora(self, request: Any) -> bool:
        self.held.add(request.lora_int_id)
        return True

    async def remove_lora(self, identity: int) -> bool:
        self.asked.set()
        await self.answer.wait()
        if not self.stubborn:
            self.held.discard(identity)
        return True

    async def list_loras(self) -> set[int]:
        return set(self.held)


class Models:
    """One id, and names that nobody asks for."""

    def __init__(self) -> None:
        self.lora_id_counter = self
        self.base_model_paths = [SimpleNamespace(name="base")]

    def inc(self, step: int) -> int:
        return step

    def forget(self, version: Version) -> None:
        """Nothing is kept."""


@pytest.mark.parametrize("during", ["the attempt", "the pause"])
async def test_a_version_the_engine_does_not_let_go_is_kept_at_once_and_can_go_later(during: str) -> None:
    engine, gone = Engine(), []
    adapters = EngineAdapters(engine, Models(), Lifecycle(), SystemClock())  # type: ignore[arg-type]

    async def left(version: Version) -> None:
        gone.append(version)

    retirements = Retirements(adapters, SystemClock(), left)
    await adapters.load(VERSION, Path("/a"))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        retirements.start(VERSION, group)
        await engine.asked.wait()
        if during == "the pause":
            engine.answer.set()
            await asyncio.sleep(0.1)
        stopped = group.create_task(retirements.stop(VERSION))
        await asyncio.sleep(0)
        engine.answer.set()
        await stopped
        assert gone == []
        assert len(engine.held) == 1

        engine.stubborn = False
        retirements.start(VERSION, group)
        await retirements.finished(VERSION)
    assert gone == [VERSION]
    assert engine.held == set()
