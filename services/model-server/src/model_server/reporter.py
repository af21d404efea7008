"""Tells the Workspace how this container fares: the annotation on its own Pod, and the termination log at the end.

A change of state is written at once, progress at most every 15 seconds with jitter: an apiserver takes some hundred
writes a second, and each wakes every watcher. What cannot be written is retried; the newest report wins.
"""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Final, Protocol

import msgspec

from kaito_api.labels import REPORT_PREFIX
from kaito_api.meta import Key
from kaito_api.report import TERMINATION_LIMIT, AdapterReport, EngineReport, Progress, Report, encode
from kubecore.clock import Clock

PROGRESS_SECONDS: Final = 15.0
JITTER: Final = 0.2
"""Share of the interval by which it varies, so that a thousand pods do not write in step."""
_RETRY_SECONDS: Final = (0.5, 30.0)
_logger = logging.getLogger(__name__)


class Annotator(Protocol):
    """Writes one annotation of one Pod. Raises ReportUnwrittenError when that did not work."""

    async def __call__(self, pod: Key, name: str, value: str) -> None:
        """Write it, within a deadline of its own."""


class ReportUnwrittenError(Exception):
    """The report did not reach the apiserver; it will be tried again."""


class Reporter:
    """The report of one container. `run()` writes in the background; `last_word()` ends it."""

    def __init__(
        self, *, clock: Clock, container: str, termination_log: Path, annotate: Annotator | None, pod: Key | None
    ) -> None:
        self._clock = clock
        self._annotation = REPORT_PREFIX + container
        self._termination_log = termination_log
        self._annotate = annotate if pod is not None else None
        self._pod = pod
        self._report = Report(state="", at=clock.now())
        self._urgent = asyncio.Event()
        self._changed = asyncio.Event()
        self._random = random.Random()

    @property
    def report(self) -> Report:
        """The newest report."""
        return self._report

    def state(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Enter a state. Progress of the one before is dropped."""
        self._set(urgent=True, state=state, reason=reason, message=message, progress=None)

    def progress(self, progress: Progress) -> None:
        """Say how far the present step is; written when the interval allows."""
        self._set(urgent=False, progress=progress)

    def engine(self, engine: EngineReport) -> None:
        """Say what the engine runs with."""
        self._set(urgent=True, engine=engine)

    def adapters(self, adapters: list[AdapterReport]) -> None:
        """Say how each adapter fares."""
        if adapters != self._report.adapters:
            self._set(urgent=True, adapters=adapters)

    async def run(self) -> None:
        """Write reports until cancelled."""
        if self._annotate is None:
            return
        delay = _RETRY_SECONDS[0]
        while True:
            await self._changed.wait()
            await self._interval_unless_urgent()
            self._changed.clear()
            self._urgent.clear()
            try:
                await self._write()
            except ReportUnwrittenError as error:
                _logger.warning("report not written", extra={"error": str(error), "retry_seconds": round(delay, 1)})
                self._changed.set()
                await self._clock.sleep(delay)
                self._urgent.set()
                delay = min(delay * 2 * self._random.uniform(1 - JITTER, 1 + JITTER), _RETRY_SECONDS[1])
            else:
                delay = _RETRY_SECONDS[0]

    async def flush(self) -> None:
        """Write the newest report now; for before the event loop is blocked. A failure is left to `run()`."""
        try:
            await self._write()
        except ReportUnwrittenError as error:
            _logger.warning("report not written", extra={"error": str(error)})

    async def last_word(self, seconds: float) -> None:
        """Write the newest report to the termination log, and once more to the Pod, within `seconds`."""
        try:
            self._termination_log.write_bytes(encode(self._report, TERMINATION_LIMIT))
        except OSError as error:
            _logger.warning("termination log not written", extra={"error": str(error)})
        if self._annotate is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._write()
        except (ReportUnwrittenError, TimeoutError) as error:
            _logger.warning("last report not written", extra={"error": str(error) or "deadline"})

    async def _interval_unless_urgent(self) -> None:
        """Wait out the interval, or until a change of state comes in between."""
        if self._urgent.is_set():
            return
        interval = PROGRESS_SECONDS * self._random.uniform(1 - JITTER, 1 + JITTER)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._clock.sleep(interval)), group.create_task(self._urgent.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    async def _write(self) -> None:
        if self._annotate is not None and self._pod is not None:
            await self._annotate(self._pod, self._annotation, encode(self._report).decode())

    def _set(self, *, urgent: bool, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, at=self._clock.now(), **changes)
        self._changed.set()
        if urgent:
            self._urgent.set()
