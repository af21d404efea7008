"""A TCP relay in front of a real apiserver, for networks that fail: cut, frozen, slow. It never looks into the bytes."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

CHUNK = 65536


class TcpProxy:
    """Relays to `host:port` from a free port of 127.0.0.1 while its block runs."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._era = 0
        self.delay = 0.0
        """Seconds that every chunk is held back, in both directions."""
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def up(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._pairs:
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def freeze(self) -> None:
        """Keep connections open and forward nothing: a peer that vanished without a word. New connections still work."""
        self._era += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer))
                    group.create_task(self._pump(far_reader, writer))
            finally:
                far_writer.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # either side went, or the test cut the line: the other side learns it below
        finally:
            writer.transport.abort()
            self._pairs.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        era = self._era
        while chunk := await reader.read(CHUNK):
            if era != self._era:
                await asyncio.Event().wait()  # until the line is cut
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError("one side closed")
