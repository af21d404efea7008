"""Processes that outlive the command that started them: recorded by pid and start time, and ended by nobody's name."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from kaito_local.errors import LocalError


class Process(msgspec.Struct, frozen=True):
    """One started process. `started` is field 22 of /proc/PID/stat: a pid that was given out again differs in it."""

    name: str
    pid: int
    started: int
    log: str


def start_time(pid: int) -> int | None:
    """The start time of a live process in clock ticks since boot; None when there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def alive(process: Process) -> bool:
    """Whether exactly this process still runs."""
    return start_time(process.pid) == process.started


def log_tail(process: Process, lines: int = 8) -> str:
    """The last lines of the process's log, for an error message."""
    with suppress(FileNotFoundError):
        return "\n".join(Path(process.log).read_text(errors="replace").splitlines()[-lines:])
    return ""


def _inheritable() -> list[int]:
    """Descriptors above stderr that a child would keep: a caller's lock or pipe must not live as long as a daemon."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if (descriptor := int(name)) > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
        except OSError:  # the descriptor of this very listing, closed by now
            continue
    return found


class ProcessTable:
    """The processes of one state folder, in `processes.json` there."""

    def __init__(self, state_dir: Path) -> None:
        """Reads nothing yet; the folder is made on the first start."""
        self._file = state_dir / "processes.json"
        self._logs = state_dir / "logs"

    def all(self) -> list[Process]:
        """Everything recorded, in the order of starting, ended or not."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=list[Process])
        except FileNotFoundError:
            return []

    def get(self, name: str) -> Process | None:
        """The live process of that name."""
        return next((process for process in self.all() if process.name == name and alive(process)), None)

    def start(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Process:
        """Starts a program in a session of its own, stdout and stderr appended to `logs/NAME.log`, and records it."""
        if running := self.get(name):
            return running
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        pid = os.posix_spawn(
            argv[0],
            [str(word) for word in argv],
            {**os.environ, **(env or {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
            ],
            setsid=True,
        )
        process = Process(name=name, pid=pid, started=start_time(pid) or 0, log=str(log))
        self._write([*(other for other in self.all() if other.name != name), process])
        return process

    async def stop(self, name: str, grace: float = 10) -> None:
        """Ends the named process: SIGTERM, and SIGKILL once `grace` seconds have passed."""
        for process in self.all():
            if process.name == name:
                await end(process, grace)
        self._write([process for process in self.all() if process.name != name])

    async def stop_all(self, grace: float = 10) -> None:
        """Ends everything recorded here, the last started first."""
        for process in reversed(self.all()):
            await self.stop(process.name, grace)

    def _write(self, processes: list[Process]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(processes))
        fresh.replace(self._file)


async def end(process: Process, grace: float) -> None:
    """Ends one process and returns when it is gone, by its pidfd and not by looking again and again."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if alive(process):
            await _signal_and_wait(process, handle, grace)
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
    finally:
        os.close(handle)


async def _signal_and_wait(process: Process, handle: int, grace: float) -> None:
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        with suppress(TimeoutError):
            await wait_ended(handle, patience)
            return
    raise LocalError(f"{process.name} (pid {process.pid}) does not end, not even on SIGKILL")


@asynccontextmanager
async def must_stay_alive(process: Process) -> AsyncIterator[None]:
    """Ends the block with a LocalError, at once, when the process that it waits for has ended."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        raise LocalError(f"{process.name} ended while starting:\n{log_tail(process)}") from None
    try:
        async with asyncio.timeout(None) as scope:

            def ended() -> None:
                loop.remove_reader(handle)
                scope.reschedule(loop.time())

            loop.add_reader(handle, ended)
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise LocalError(f"{process.name} ended while starting:\n{log_tail(process)}") from None
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def wait_ended(handle: int, timeout: float) -> None:
    """Waits until the process behind a pidfd has ended; TimeoutError after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
