"""The training child as its supervisor sees it: started, listened to, stopped, and its end explained."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from tuner import events
from tuner.events import Event, Failed, Started, Stepped
from tuner.job import Job

KILL_SECONDS: Final = 10.0
"""Between SIGABRT, after which the log says where the child hung, and SIGKILL."""
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
_CGROUP_EVENTS: Final = Path("/sys/fs/cgroup/memory.events")
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


async def run(
    job: Job,
    launch: Callable[[Path], list[str]],
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
    limits: Deadlines,
) -> End:
    """Train until the child ends. After `stop` it is asked to write a checkpoint and has `limits.grace` seconds.

    `launch` makes the command from the path of the job's file.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        address = str(Path(folder) / "events")
        path = Path(folder) / "job.json"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(job, events=address)))
        async with _listening(address) as reader_future:
            before = _oom_kills()
            process = await asyncio.create_subprocess_exec(
                *launch(path), env=environment(os.environ), start_new_session=True
            )
            try:
                failure, hung = await _attend(process, reader_future, on_event, stop, limits)
                status = await process.wait()
            finally:
                _kill_group(process.pid)
                await process.wait()
            memory = _oom_kills() > before
    return End(status=status, failure=failure, hung=hung, killed_for_memory=memory)


def command(processes: int, job: Path) -> list[str]:
    """The child's command: the module itself, or torch's launcher where there are several processes."""
    if processes == 1:
        return [sys.executable, "-m", "tuner.train", str(job)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *launcher, "-m", "tuner.train", str(job)]


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What the child may know: libraries and devices. No address of the cluster, no secrets, no way to a hub. Pure."""
    passed = {name: value for name, value in own.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}
    return {**_OFFLINE, **passed, "HF_HUB_OFFLINE": "1"}


@contextlib.asynccontextmanager
async def _listening(address: str) -> AsyncIterator[asyncio.Future[asyncio.StreamReader]]:
    connected: asyncio.Future[asyncio.StreamReader] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        if not connected.done():
            connected.set_result(reader)

    server = await asyncio.start_unix_server(accept, address, limit=events.LINE_LIMIT)
    try:
        yield connected
    finally:
        server.close()


async def _attend(
    process: asyncio.subprocess.Process,
    connected: asyncio.Future[asyncio.StreamReader],
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
    limits: Deadlines,
) -> tuple[Failed | None, bool]:
    """Pass events on until the child is silent for good. Returns what it said about a failure, and whether it hung."""
    async with asyncio.TaskGroup() as group:
        listening = group.create_task(_listen(process, connected, on_event, limits))
        stopping = group.create_task(_stop(process, stop, limits.grace))
        try:
            return await listening
        finally:
            stopping.cancel()


async def _listen(
    process: asyncio.subprocess.Process,
    connected: asyncio.Future[asyncio.StreamReader],
    on_event: Callable[[Event], None],
    limits: Deadlines,
) -> tuple[Failed | None, bool]:
    loop = asyncio.get_running_loop()
    failure: Failed | None = None
    patience, slowest = limits.load, 0.0
    try:
        async with asyncio.timeout(limits.load):
            reader = await _first(process, connected)
        while reader is not None:
            began = loop.time()
            async with asyncio.timeout(patience):
                line = await reader.readline()
            if not line:
                break
            event = events.decode(line)
            if isinstance(event, Failed):
                failure = event
            elif isinstance(event, Started | Stepped):
                slowest = max(slowest, loop.time() - began if isinstance(event, Stepped) else 0.0)
                patience = max(limits.step, _SLOW_FACTOR * slowest)
            if event is not None:
                on_event(event)
        # A child that closed its socket and stays is as silent as one that hangs.
        async with asyncio.timeout(limits.step):
            await process.wait()
    except TimeoutError:
        await _abort(process)
        return failure, True
    return failure, False


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


def _oom_kills() -> int:
    """The cgroup's count of processes killed for lack of memory, 0 where it cannot be read."""
    try:
        lines = _CGROUP_EVENTS.read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split() for line in lines)
    return int(counts.get("oom_kill", "0"))
