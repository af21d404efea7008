"""SIGTERM while the engine starts.

For minutes the main thread sits in vLLM's start-up code, blocked in C, and runs no Python signal handler; an exception
thrown from one would surface wherever it happens to be. So a thread of its own waits for the byte that the C-level
handler writes, ends the engine's processes, and then this one. Nothing is in flight yet that could be lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from model_server import process_tree

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
CHILD_SECONDS: Final = 5.0
"""How long the kernel may take to clear away the engine's processes."""


class StartupGuard:
    """Context manager for the main thread. `scratch` is removed when the process is ended."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.requested = False
        """A signal came so late that the context had already ended: whoever takes over must act on it."""

    def __enter__(self) -> Self:
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for number in SIGNALS:
            signal.signal(number, self._note)
        # The event loop has its own descriptor here, for handlers that it does not have yet.
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, args=(reader,), name="startup-guard", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)
        self._thread.join()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    def _wait(self, reader: int) -> None:
        try:
            numbers = os.read(reader, 1)
        finally:
            os.close(reader)
        if numbers:
            sys.stderr.write(f"{signal.Signals(numbers[0]).name} while starting: ending\n")
            self._end()

    def _end(self) -> None:
        # Killed, not asked: while it starts the engine only takes note of SIGTERM, and its workers would outlive it.
        if not process_tree.kill_descendants(os.getpid(), CHILD_SECONDS):
            sys.stderr.write("some of the engine's processes cannot be killed\n")
        shutil.rmtree(self._scratch, ignore_errors=True)
        sys.stderr.flush()
        os._exit(0)
