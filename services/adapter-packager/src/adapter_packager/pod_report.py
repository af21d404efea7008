"""The packager's word upward: the report annotation on its own Pod and, at the end, the termination log.

A change of state is written at once, progress at most every 15 seconds with jitter. A report that cannot be written never
fails the push: the next one carries the same facts.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from adapter_packager.exits import UNEXPECTED_REASON, reason_of, words_of
from adapter_packager.holding import TROUBLES
from kaito_api.report import TERMINATION_LIMIT, OutputReport, Progress, Report, encode
from kubecore.clock import Clock
from kubecore.pod_report import Annotate, ReportUnwrittenError

_INTERVAL = 15.0
_LAST_SECONDS = 15.0
_JITTER = 0.2
_log = logging.getLogger(__name__)


class PodReport:
    """The report of this container. `annotate` None means that nobody reads it (a command line)."""

    def __init__(self, clock: Clock, annotate: Annotate | None, termination_log: Path | None) -> None:
        self._clock = clock
        self._annotate = annotate
        self._termination_log = termination_log
        self._report = Report(state="Checking", at=clock.now())
        self._urgent = asyncio.Event()
        self._next = 0.0

    def state(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Enter a state, or say why the present one takes long."""
        self._change(state=state, reason=reason, message=message)
        self._urgent.set()

    def output(self, output: OutputReport) -> None:
        """The result is in the registry."""
        self._change(state="Done", reason="", message="", progress=None, output=output)
        self._urgent.set()

    def progress(self, done: int, total: int) -> None:
        """Bytes pushed so far."""
        self._change(progress=Progress(phase="push", done=done, total=total, unit="bytes"))
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + _INTERVAL * random.uniform(1 - _JITTER, 1 + _JITTER)
            self._urgent.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report while the block runs; an error that leaves it becomes the last word."""
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._run())
                try:
                    yield
                except TROUBLES as error:
                    self._change(state="Failed", reason=reason_of(error), message=str(error), progress=None)
                    raise
                except Exception as error:
                    # A fault of ours, or of the disk: without a word the Workspace would show the last state for ever.
                    self._change(state="Failed", reason=UNEXPECTED_REASON, message=words_of(error), progress=None)
                    raise
                except asyncio.CancelledError:
                    message = "stopped before it was done; a new pod goes on"
                    self._change(state="Failed", reason="Interrupted", message=message, progress=None)
                    raise
                finally:
                    writer.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        finally:
            await self._last_word()

    async def _run(self) -> None:
        while True:
            await self._urgent.wait()
            self._urgent.clear()
            await self._send()

    async def _last_word(self) -> None:
        if self._termination_log is not None:
            try:
                await asyncio.to_thread(self._termination_log.write_bytes, encode(self._report, TERMINATION_LIMIT))
            except OSError as error:
                _log.warning("termination log not written", extra={"error": error.strerror})
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._send()
        except TimeoutError:
            _log.warning("last report not written", extra={"seconds": _LAST_SECONDS})

    async def _send(self) -> None:
        if self._annotate is None:
            return
        try:
            await self._annotate(encode(self._report).decode())
        except ReportUnwrittenError as error:
            _log.warning("report not written", extra={"error": str(error)})

    def _change(self, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, at=self._clock.now(), **changes)
