"""Streams that go on for ever, what the others of a server feel of a load, and how many tokens they get."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

PROMPT = "w2"
"""One token, so that what is measured is mostly the decoding."""


class Server(Protocol):
    """What the streams ask."""

    http: aiohttp.ClientSession
    failures: list[str]

    @property
    def url(self) -> str: ...


@dataclass
class Load:
    """Streams that go on for ever, and the times of their pieces."""

    server: Server
    pieces: list[list[float]] = field(default_factory=list)
    tokens: int = 0

    async def stream(self, model: str) -> None:
        """Ask again and again."""
        body = {"model": model, "prompt": PROMPT, "max_tokens": 200, "min_tokens": 200, "stream": True}
        while True:
            times: list[float] = []
            self.pieces.append(times)
            async with self.server.http.post(f"{self.server.url}/v1/completions", json=body) as answer:
                if answer.status != 200:
                    self.server.failures.append(await answer.text())
                    return
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        if b'"error"' in line:
                            self.server.failures.append(line.decode())
                            return
                        times.append(time.perf_counter())
                        self.tokens += 1

    def longest(self, begun: float, ended: float) -> float:
        """The longest pause of any stream in that time; of a pause that reaches out of it, the part inside."""
        gaps = (
            min(later, ended) - max(earlier, begun)
            for times in self.pieces
            for earlier, later in itertools.pairwise(times)
            if later >= begun and earlier <= ended
        )
        return max(gaps, default=0.0)


@asynccontextmanager
async def under_load(server: Server, models: list[str]) -> AsyncIterator[Load]:
    """Run one stream for each of `models` while the context lasts."""
    load = Load(server)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.stream(model)) for model in models]
        yield load
        for task in tasks:
            task.cancel()


async def rate(server: Server, models: list[str], seconds: float) -> float:
    """Tokens/s of one stream on each of `models`."""
    async with under_load(server, models) as load:
        await asyncio.sleep(min(5.0, seconds / 2))  # all of them run
        begun, before = time.perf_counter(), load.tokens
        await asyncio.sleep(seconds)
        return (load.tokens - before) / (time.perf_counter() - begun)
