"""The small process above the server: forwards signals, reaps orphans, and speaks for a server that was killed.

In a container the first process is PID 1: the kernel gives it every orphan to reap and no default action for signals.
The server itself must not do that work: waiting for any child would steal the exit codes that multiprocessing waits
for. This process imports nothing heavy (20 MiB), so the kernel's OOM killer prefers the server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Final, Self

from kaito_api.report import TERMINATION_LIMIT, Report, encode
from kubecore import cgroup
from model_server.exits import FatalError
from model_server.failure import Ruins, diagnose

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_CHILD_SUBREAPER: Final = 36


def wanted(init: str, pid: int) -> bool:
    """Return whether this process should be the init process, given `--init` and its own PID."""
    return init == "always" or (init == "auto" and pid == 1)


def server_command(argv: Sequence[str]) -> list[str]:
    """Return the command of the server proper: `model-server ARGV`, without an init process of its own."""
    # --init goes in front of `--`: what follows that belongs to vLLM.
    own = list(argv)
    position = own.index("--") if "--" in own else len(own)
    return [sys.executable, "-m", "model_server", *own[:position], "--init", "never", *own[position:]]


def run(command: Sequence[str], termination_log: Path) -> int:
    """Run `command` as a child until it ends; return the exit code for this process."""
    _become_subreaper()
    before = cgroup.oom_kills()
    with _Forwarder() as forwarder:  # before the child is there: a signal that comes now must not be lost
        # Its own process group: a terminal's Ctrl-C then reaches it once, through us.
        child = os.posix_spawn(command[0], list(command), os.environ, setpgroup=0)
        forwarder.to(child)
        status = _reap_until(child)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if -code in forwarder.seen:
        return 128 - code  # it was told to end before it had a handler: as asked, nothing to report
    error = _killed(code, before)
    _leave_word(error, termination_log)
    return int(error.code)


class _Forwarder:
    """Passes signals on to the child, those also that came before it was there."""

    def __init__(self) -> None:
        self._child = 0
        self.seen: set[int] = set()

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._forward) for number in FORWARDED}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def to(self, child: int) -> None:
        """Say where signals go from now on."""
        self._child = child
        for number in sorted(self.seen):
            self._send(number)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.seen.add(number)
        self._send(number)

    def _send(self, number: int) -> None:
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, number)


def _reap_until(child: int) -> int:
    """Reap every child that ends until `child` itself does; return its wait status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _killed(code: int, before: int | None) -> FatalError:
    kills = cgroup.oom_kills_since(before)
    return diagnose(Ruins(exit_codes=(code,), oom_kills=kills, while_serving=True))


def _leave_word(error: FatalError, termination_log: Path) -> None:
    report = Report(state="Failed", at=datetime.now(UTC), reason=error.reason, message=str(error))
    sys.stderr.write(f"{error}\n")
    try:
        termination_log.write_bytes(encode(report, TERMINATION_LIMIT))
    except OSError as problem:
        sys.stderr.write(f"cannot write {termination_log}: {problem.strerror}\n")


def _become_subreaper() -> None:
    """Make the kernel hand orphans to this process also where it is not PID 1."""
    if os.getpid() != 1:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
