"""Files that a host keeps compressed and sends with Content-Encoding: gzip, whatever was asked for."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from kubecore.backoff import BackoffPolicy
from tuner.data import guard, location, rows
from tuner.data.detect import detect
from tuner.data.fetch import Downloader, Fetched, Limits
from tuner.data.location import Policy

TEXT = "".join(f'{{"text": "{random.Random(n).random()}"}}\n' for n in range(20_000))
STORED = gzip.compress(TEXT.encode(), mtime=0)


class Store:
    """An object store with one compressed object, whose connection breaks once."""

    def __init__(self) -> None:
        self.port = 0
        self.ranges: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        if start >= len(STORED):
            return web.Response(status=416)
        headers = {"Content-Encoding": "gzip", "ETag": '"1"', "Content-Length": str(len(STORED) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(STORED) - 1}/{len(STORED)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        await response.prepare(request)
        if len(self.ranges) == 1:
            await response.write(STORED[: len(STORED) // 4])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(STORED[start:])
        return response


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    app = web.Application()
    app.router.add_get("/rows.jsonl", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


async def test_the_bytes_on_the_way_are_counted_pinned_and_continued(store: Store, tmp_path: Path) -> None:
    policy = Policy(allowed_hosts=frozenset({("127.0.0.1", store.port)}))
    digest = hashlib.sha256(STORED).hexdigest()
    where = location.parse(f"http://127.0.0.1:{store.port}/rows.jsonl#sha256={digest}", policy)
    moves: list[tuple[int, int]] = []
    async with guard.session(policy, connect_seconds=30, silence_seconds=30) as client:
        limits = Limits(pauses=BackoffPolicy(base=0.01, cap=0.01))
        downloader = Downloader(client, tmp_path, policy, limits)
        found = await downloader.download(where, lambda done, total: moves.append((done, total)))
    assert found == Fetched(path=found.path, shown=where.shown, size=len(STORED), sha256=digest)
    assert store.ranges == ["", f"bytes={len(STORED) // 4}-"]
    assert moves[-1] == (len(STORED), len(STORED))
    path = Path(found.path)
    assert sum(1 for _ in rows.read(path, detect(path))) == 20_000
