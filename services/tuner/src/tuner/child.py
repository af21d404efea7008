"""The training child as its supervisor sees it: started, listened to, stopped, and its end explained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from kubecore import cgroup
from tuner import events
from tuner.events import Event, Failed, Started, Stepped
from tuner.exits import ExitCode
from tuner.job import Job
from tuner.threads import threads

KILL_SECONDS: Final = 10.0
"""Between SIGABRT, after which the log says where the child hung, and SIGKILL; and from a failure that the child told to its
end, for a process that failed and stays holds the GPU."""
_PASSED: Final = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "VIRTUAL_ENV", "PYTHONPATH")
_PASSED_PREFIXES: Final = ("CUDA_", "NVIDIA_", "NCCL_", "PYTORCH_", "TORCH_", "OMP_", "MKL_", "BNB_", "TRITON_", "LC_")
_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "PYTHONUNBUFFERED": "1",
}
_SLOW_FACTOR: Final = 10.0
"""A step that takes this many times the slowest one so far counts as a hang, if the deadline has passed too."""
_logger = logging.getLogger(__name__)


class Deadlines(msgspec.Struct, frozen=True):
    """Longest silence before the first step and between two steps, and the time for a checkpoint after SIGTERM (s)."""

    load: float
    step: float
    grace: float


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a child ended."""

    status: int
    """As asyncio gives it: negative for a signal."""
    failure: Failed | None = None
    """What it said itself."""
    hung: bool = False
    killed_for_memory: bool = False
    """The kernel's OOM killer was at work meanwhile."""
    before_steps: bool = False
    """Where it was killed for memory: it had not come to the first step yet."""


async def run(
    job: Job,
    launch: Callable[[Path], list[str]],
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
    limits: Deadlines,
    *,
    processes: int = 1,
) -> End:
    """Train until the child ends. After `stop` it is asked to write a checkpoint and has `limits.grace` seconds.

    `launch` makes the command, of `processes` training processes, from the path of the job's file.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        address = str(Path(folder) / "events")
        path = Path(folder) / "job.json"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, events=address)))
        async with _listening(address) as heard:
            before = cgroup.oom_kills()
            process = await asyncio.create_subprocess_exec(
                *launch(path), env=environment(os.environ, threads(processes)), start_new_session=True
            )
            try:
                hung = await _attend(process, heard, on_event, stop, limits)
                status = await process.wait()
            finally:
                _kill_group(process.pid)
                await process.wait()
            kills = cgroup.oom_kills_since(before)
    return End(
        status=status,
        failure=telling(heard.failures),
        hung=hung,
        killed_for_memory=bool(kills),
        before_steps=bool(kills) and not heard.begun,
    )


def command(processes: int, job: Path) -> list[str]:
    """The child's command: the module itself, or our launcher where there are several processes."""
    if processes == 1:
        return [sys.executable, "-m", "tuner.train", str(job)]
    return [sys.executable, "-m", "tuner.launch", str(processes), str(job)]


def environment(own: Mapping[str, str], threads: int) -> dict[str, str]:
    """What the child may know: libraries and devices. No address of the cluster, no secrets, no way to a hub. Pure."""
    passed = {name: value for name, value in own.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {**_OFFLINE, "OMP_NUM_THREADS": str(threads), **passed, "HF_HUB_OFFLINE": "1"}


def telling(failures: Sequence[Failed]) -> Failed | None:
    """Choose what to believe of the processes that failed: memory first, then who was first. Pure.

    When one process dies, the others fail in the operation that they shared with it, or are told to stop.
    """

    def rank(failure: Failed) -> int:
        return {ExitCode.OUT_OF_MEMORY: 0, ExitCode.INTERRUPTED: 2}.get(ExitCode(failure.code), 1)

    return min(failures, key=rank, default=None)


class _Heard:
    """What comes in over the socket: the first process's line of events, and what each process says about its failure."""

    def __init__(self) -> None:
        self.first: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()
        self.failures: list[Failed] = []
        self.begun = False
        """Whether the steps have begun."""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection. Each says in its first line whose it is."""
        try:
            if await reader.readline() == events.FIRST:
                if not self.first.done():
                    self.first.set_result(reader)
                return
            self.note(events.decode(await reader.readline()))
        except (OSError, ValueError) as error:  # a process killed half-way through a line
            _logger.warning("lost the word of a training process", extra={"error": str(error)})
        writer.close()

    def note(self, event: Event | None) -> None:
        """Remember a failure."""
        if isinstance(event, Failed):
            self.failures.append(event)


@contextlib.asynccontextmanager
async def _listening(address: str) -> AsyncIterator[_Heard]:
    heard = _Heard()
    server = await asyncio.start_unix_server(heard.accept, address, limit=events.LINE_LIMIT)
    try:
        yield heard
    finally:
        server.close()


async def _attend(
    process: asyncio.subprocess.Process,
    heard: _Heard,
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
    limits: Deadlines,
) -> bool:
    """Pass events on until the child is silent for good. Returns whether it hung."""
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(_listen(process, heard, on_event, limits))
        stopping = group.create_task(_stop(process, stop, limits.grace))
        try:
            return await listening
        finally:
            stopping.cancel()


async def _listen(
    process: asyncio.subprocess.Process, heard: _Heard, on_event: Callable[[Event], None], limits: Deadlines
) -> bool:
    loop = asyncio.get_running_loop()
    patience, slowest = limits.load, 0.0
    try:
        async with asyncio.timeout(limits.load):
            reader = await _first(process, heard.first)
        while reader is not None:
            began = loop.time()
            async with asyncio.timeout(patience):
                line = await reader.readline()
            if not line:
                break
            event = events.decode(line)
            if isinstance(event, Failed):
                heard.note(event)
                patience = KILL_SECONDS
            elif isinstance(event, Started | Stepped):
                heard.begun = True
                slowest = max(slowest, loop.time() - began if isinstance(event, Stepped) else 0.0)
                patience = max(limits.step, _SLOW_FACTOR * slowest)
            if event is not None:
                on_event(event)
        # A child that closed its socket and stays is as silent as one that hangs.
        async with asyncio.timeout(KILL_SECONDS if heard.failures else limits.step):
            await process.wait()
    except TimeoutError:
        await _abort(process)
        return not heard.failures
    return False


async def _first(
    process: asyncio.subprocess.Process, connected: asyncio.Future[asyncio.StreamReader]
) -> asyncio.StreamReader | None:
    """The connection, or None when the child ends without one."""
    changed = asyncio.Event()
    connected.add_done_callback(lambda _: changed.set())

    async def end() -> None:
        await process.wait()
        changed.set()

    async with asyncio.TaskGroup() as group:
        ending = group.create_task(end())
        await changed.wait()
        ending.cancel()
    return connected.result() if connected.done() else None


async def _stop(process: asyncio.subprocess.Process, stop: asyncio.Event, grace: float) -> None:
    await stop.wait()
    _logger.info("the training is asked to stop", extra={"seconds": grace})
    _signal_group(process.pid, signal.SIGTERM)
    await asyncio.sleep(grace)
    _logger.warning("the training did not stop in time and is killed")
    _signal_group(process.pid, signal.SIGKILL)


async def _abort(process: asyncio.subprocess.Process) -> None:
    _signal_group(process.pid, signal.SIGABRT)
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await process.wait()
    except TimeoutError:
        _signal_group(process.pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    """End what a dead child left behind (launcher's workers, data loaders) and reap it: this process may be PID 1."""
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def reap_orphans() -> None:
    """Collect processes that were handed to PID 1. To be called while no child of our own runs."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
