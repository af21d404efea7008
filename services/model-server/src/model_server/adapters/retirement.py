"""Versions on their way out of the engine: each waits until nothing uses it, then leaves, and only then its files go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.clock import Clock
from model_server.adapters.engine_adapters import EngineAdapters
from model_server.adapters.version import Version

AGAIN: Final = BackoffPolicy(base=1.0, cap=60.0)
"""Pauses after the engine did not let a version go."""
_logger = logging.getLogger(__name__)


class Retirements:
    """One task for each version that is to go."""

    def __init__(self, engine: EngineAdapters, clock: Clock, left: Callable[[Version], Awaitable[None]]) -> None:
        """`left` is awaited when a version is out of the engine; until it returns the version counts as leaving."""
        self._engine = engine
        self._clock = clock
        self._left = left
        self._tasks: dict[Version, asyncio.Task[None]] = {}
        self._removing: set[Version] = set()
        self._kept: set[Version] = set()
        """Versions that are to stay if the attempt to remove them that is under way fails."""

    def start(self, version: Version, group: asyncio.TaskGroup) -> None:
        """Let a version go as soon as nothing uses it."""
        self._tasks[version] = group.create_task(self._run(version))

    async def stop(self, version: Version) -> None:
        """Keep a version after all, if it is not too late: whoever asks looks at what the engine holds afterwards.

        Takes as long as one attempt to remove it at most, which has a deadline.
        """
        task = self._tasks.get(version)
        if task is None:
            return
        if version in self._removing:
            self._kept.add(version)
        else:
            task.cancel()
        await asyncio.wait((task,))

    async def finished(self, version: Version) -> None:
        """Wait until a version that is being removed is gone with its files: its folder's name is used again."""
        task = self._tasks.get(version)
        if task is not None:
            await asyncio.wait((task,))

    async def _run(self, version: Version) -> None:
        pause = Backoff(AGAIN)
        try:
            while not await self._remove(version):
                if version in self._kept:
                    return
                await self._clock.sleep(pause.next())
        finally:
            self._kept.discard(version)
            self._tasks.pop(version, None)
        _logger.info("adapter removed", extra={"adapter": version.engine_name})

    async def _remove(self, version: Version) -> bool:
        await self._engine.unused(version)
        self._removing.add(version)
        try:
            if not await self._engine.remove(version):
                return False
            await self._left(version)
            return True
        finally:
            self._removing.discard(version)
