"""Tells the Workspace how this container fares: the annotation on its own Pod, and the termination log at the end.

A change of state is written at once, progress at most every 15 seconds with jitter: an apiserver takes some hundred
writes a second, and each wakes every watcher. What cannot be written is retried; the newest report wins.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from kaito_api.report import TERMINATION_LIMIT, Progress, Report, TuningReport, encode

PROGRESS_SECONDS: Final = 15.0
_JITTER: Final = 0.2
_RETRY_SECONDS: Final = 5.0
_logger = logging.getLogger(__name__)

Annotate = Callable[[str], Awaitable[None]]
"""Writes the report's JSON to the Pod. Raises ReportUnwrittenError."""


class ReportUnwrittenError(Exception):
    """The report did not reach the apiserver; it will be tried again."""


class Reporter:
    """The report of this container. `run()` writes in the background; `last_word()` ends it."""

    def __init__(self, annotate: Annotate | None, termination_log: Path) -> None:
        self._annotate = annotate
        self._termination_log = termination_log
        self._report = Report(state="", at=datetime.now(UTC))
        self._changed = asyncio.Event()
        self._urgent = asyncio.Event()

    @property
    def report(self) -> Report:
        """The newest report."""
        return self._report

    def state(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Enter a state. Progress of the one before is dropped, the figures of the training are kept."""
        _logger.info("state", extra={"state": state, "reason": reason, "detail": message})
        self._set(urgent=True, state=state, reason=reason, message=message, progress=None)

    def message(self, message: str) -> None:
        """Say something beside the state."""
        _logger.info("note", extra={"detail": message})
        self._set(urgent=True, message=message)

    def progress(self, progress: Progress | None = None, tuning: TuningReport | None = None) -> None:
        """Say how far the present step is; written when the interval allows."""
        self._set(urgent=False, progress=progress, tuning=tuning or self._report.tuning)

    async def run(self) -> None:
        """Write reports until cancelled."""
        if self._annotate is None:
            return
        while True:
            await self._changed.wait()
            await self._pause_unless_urgent()
            self._changed.clear()
            self._urgent.clear()
            try:
                await self._annotate(encode(self._report).decode())
            except ReportUnwrittenError as error:
                _logger.warning("report not written", extra={"error": str(error)})
                self._changed.set()
                await asyncio.sleep(_RETRY_SECONDS * random.uniform(1 - _JITTER, 1 + _JITTER))

    async def last_word(self, seconds: float) -> None:
        """Write the newest report to the termination log, and once more to the Pod, within `seconds`."""
        try:
            await asyncio.to_thread(self._termination_log.write_bytes, encode(self._report, TERMINATION_LIMIT))
        except OSError as error:
            _logger.warning("termination log not written", extra={"error": str(error)})
        if self._annotate is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._annotate(encode(self._report).decode())
        except (ReportUnwrittenError, TimeoutError) as error:
            _logger.warning("last report not written", extra={"error": str(error) or "deadline"})

    async def _pause_unless_urgent(self) -> None:
        """Wait out the interval, or until a change of state comes in between."""
        try:
            async with asyncio.timeout(PROGRESS_SECONDS * random.uniform(1 - _JITTER, 1 + _JITTER)):
                await self._urgent.wait()
        except TimeoutError:
            return

    def _set(self, *, urgent: bool, **changes: object) -> None:
        self._report = msgspec.structs.replace(self._report, at=datetime.now(UTC), **changes)
        self._changed.set()
        if urgent:
            self._urgent.set()
