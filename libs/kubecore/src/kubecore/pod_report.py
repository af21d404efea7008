"""Tells the Workspace how a container fares: the annotation on its own Pod, and the termination log at the end.

A change of state is written at once, progress at most every 15 seconds with jitter: an apiserver takes some hundred
writes a second, and each wakes every watcher. What cannot be written is retried; the newest report wins.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from kaito_api.labels import report_annotation
from kaito_api.meta import Key
from kaito_api.report import TERMINATION_LIMIT, Report, encode
from kaito_api.resources import PODS
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.clock import Clock
from kubecore.errors import ApiError, TransportError

if TYPE_CHECKING:  # a container outside of a cluster does without
    from kubecore.client import Client

PROGRESS_SECONDS: Final = 15.0
JITTER: Final = 0.2
"""Share of the interval by which it varies, so that a thousand pods do not write in step."""
WRITE_SECONDS: Final = 10.0
_AGAIN: Final = BackoffPolicy(base=0.5, cap=30.0)
_logger = logging.getLogger(__name__)

Annotate = Callable[[str], Awaitable[None]]
"""Writes an encoded report to the Pod, within a deadline of its own. Raises ReportUnwrittenError."""


class ReportUnwrittenError(Exception):
    """The report did not reach the apiserver; it will be tried again."""


def own_pod(environment: Mapping[str, str] = os.environ) -> Key | None:
    """Return the Pod that the downward API names, None outside of one."""
    name, namespace = environment.get("POD_NAME", ""), environment.get("POD_NAMESPACE", "")
    return Key(namespace, name) if name and namespace else None


def annotator(client: Client, pod: Key, container: str) -> Annotate:
    """Return what puts the report of `container` on its Pod."""
    name = report_annotation(container)

    async def annotate(value: str) -> None:
        patch = {"metadata": {"annotations": {name: value}}}
        try:
            await client.patch(PODS, pod, patch, timeout=WRITE_SECONDS)
        except (ApiError, TransportError) as error:
            raise ReportUnwrittenError(str(error)) from error

    return annotate


class PodReporter:
    """The report of one container. `run()` writes in the background; `last_word()` ends it."""

    def __init__(self, *, clock: Clock, annotate: Annotate | None, termination_log: Path) -> None:
        """`annotate` None: nobody but the termination log hears of it."""
        self._clock = clock
        self._annotate = annotate
        self._termination_log = termination_log
        self._report = Report(state="", at=clock.now())
        self._urgent = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def report(self) -> Report:
        """The newest report."""
        return self._report

    def state(self, state: str, *, reason: str = "", message: str = "") -> None:
        """Enter a state. Progress of the one before is dropped, everything else is kept."""
        self.change(urgent=True, state=state, reason=reason, message=message, progress=None)

    def change(self, *, urgent: bool, **changes: object) -> None:
        """Change fields of the report; what is not urgent is written when the interval allows."""
        self._report = msgspec.structs.replace(self._report, at=self._clock.now(), **changes)
        self._changed.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Write reports until cancelled."""
        if self._annotate is None:
            return
        pause = Backoff(_AGAIN)
        while True:
            await self._changed.wait()
            await self._interval_unless_urgent()
            self._changed.clear()
            self._urgent.clear()
            try:
                await self._write()
            except ReportUnwrittenError as error:
                seconds = pause.next()
                _logger.warning("report not written", extra={"error": str(error), "retry_seconds": round(seconds, 1)})
                self._changed.set()
                await self._clock.sleep(seconds)
                self._urgent.set()
            else:
                pause.reset()

    async def flush(self) -> None:
        """Write the newest report now; for before the event loop is blocked. A failure is left to `run()`."""
        try:
            await self._write()
        except ReportUnwrittenError as error:
            _logger.warning("report not written", extra={"error": str(error)})

    async def last_word(self, seconds: float) -> None:
        """Write the newest report to the termination log, and once more to the Pod, within `seconds`."""
        try:
            await asyncio.to_thread(self._termination_log.write_bytes, encode(self._report, TERMINATION_LIMIT))
        except OSError as error:
            _logger.warning("termination log not written", extra={"error": str(error)})
        try:
            async with asyncio.timeout(seconds):
                await self._write()
        except (ReportUnwrittenError, TimeoutError) as error:
            _logger.warning("last report not written", extra={"error": str(error) or "deadline"})

    async def _interval_unless_urgent(self) -> None:
        """Wait out the interval, or until a change of state comes in between."""
        if self._urgent.is_set():
            return
        timer = self._clock.call_later(PROGRESS_SECONDS * random.uniform(1 - JITTER, 1 + JITTER), self._urgent.set)
        try:
            await self._urgent.wait()
        finally:
            timer.cancel()

    async def _write(self) -> None:
        if self._annotate is not None:
            await self._annotate(encode(self._report).decode())
