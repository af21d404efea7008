"""Serving overhead: tokens/s through our server, over those of the same vLLM started plainly with the same arguments.

Both servers are up at the same time and one of them is idle while the other is measured, in alternating order: what the
machine does besides then falls on both. Each pair gives one ratio; the median and its 95 % interval (bootstrap) are
printed for 1, 8 and 32 concurrent streams. A row of its own says what --enable-lora costs plain vLLM. On a machine that
others use too, tokens/s scatters widely; the CPU time of the process that answers HTTP does so much less, and is printed
as well: it is all that our server adds, for the engine's processes are the same.

    python -m benchmarks.serving_overhead [--pairs 10] [--model DIR]

The model is as small as a real architecture gets, so that a token costs little and everything around it shows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

STREAMS = (1, 8, 32)
TOKENS = 64
ROUNDS = {1: 4, 8: 2, 32: 1}
"""Answers per stream in one measurement: about the same time at every level."""
GOAL = 0.98
OURS = "our server / plain vLLM"
START_SECONDS = 600
RESAMPLES = 10_000
QUESTION = "What is a workspace?"
NAME = "phi-tiny"
LORA = ("--enable-lora", "--max-loras=4", "--max-lora-rank=64", "--max-cpu-loras=12")
COMMON = ("--max-model-len=1024", "--max-num-seqs=64", "--dtype=bfloat16", "--disable-access-log-for-endpoints=/health")
PLAIN = "from vllm.entrypoints.launchers.api_server.entry import main; main()"


@dataclass(frozen=True)
class Server:
    """A server that is up."""

    name: str
    url: str
    pid: int
    """Of the process that answers HTTP; the engine's processes are its children."""


@dataclass(frozen=True)
class Sample:
    """One measurement of one server."""

    rate: float
    """Tokens/s."""
    cpu: float
    """CPU microseconds per token of the process that answers HTTP: what differs between the two, without the engine."""


@dataclass(frozen=True)
class Row:
    """One line of the table: `ours` and `theirs` are medians in `unit`, `ratio` is the median over the pairs."""

    what: str
    unit: str
    streams: int
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    pairs: int


def interval(values: Sequence[float], seed: int = 7) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    source = random.Random(seed)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ours(model: Path, port: int, arguments: Sequence[str]) -> list[str]:
    """Return the command of our server."""
    command = [sys.executable, "-m", "model_server", "serve", "--model", str(model), "--served-model-name", NAME]
    return [
        *command,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-rate-limit",
        "--adapter-store",
        "adapters",
        "--",
        *arguments,
    ]


def plain(model: Path, port: int, arguments: Sequence[str]) -> list[str]:
    """Return the command of vLLM's own server."""
    own = ("--model", str(model), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port))
    return [sys.executable, "-c", PLAIN, *own, *arguments]


@asynccontextmanager
async def running(name: str, command: Sequence[str], port: int, folder: Path) -> AsyncIterator[Server]:
    """Start a server, wait until it answers, and end it afterwards."""
    log = folder / f"{name}.log"
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "HF_HUB_OFFLINE": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=sink, env=environment, cwd=folder)
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process.pid)
        await _answering(server, process, log)
        yield server
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 60)
            except TimeoutError:
                process.kill()


async def _answering(server: Server, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                raise RuntimeError(f"{server.name} ended:\n{log.read_text()[-2000:]}")  # noqa: ASYNC240
            try:
                async with session.get(f"{server.url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
    raise RuntimeError(f"{server.name} did not answer within {START_SECONDS} s")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(server: Server, streams: int) -> Sample:
    """Measure `streams` concurrent streams."""
    body = json.dumps(
        {
            "model": NAME,
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": TOKENS,
            "min_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
    )
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"content-type": "application/json"}

    async def stream(session: aiohttp.ClientSession) -> None:
        for _ in range(ROUNDS[streams]):
            async with session.post(f"{server.url}/v1/chat/completions", data=body, headers=headers) as answer:
                last = b""
                async for chunk in answer.content.iter_any():
                    last = (last + chunk)[-64:]
                if answer.status != 200 or b"[DONE]" not in last:
                    raise RuntimeError(f"{server.name} answered {answer.status}: {last!r}")

    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        begun, used = time.perf_counter(), cpu_seconds(server.pid)
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(stream(session))
        tokens = streams * ROUNDS[streams] * TOKENS
        elapsed = time.perf_counter() - begun
        return Sample(rate=tokens / elapsed, cpu=(cpu_seconds(server.pid) - used) * 1e6 / tokens)


async def compare(what: str, first: Server, second: Server, pairs: int) -> list[Row]:
    """Measure alternating pairs at every level; the ratio is first over second."""
    rows = []
    for streams in STREAMS:
        for server in (first, second):
            await measure(server, streams)
        samples: dict[str, list[Sample]] = {first.name: [], second.name: []}
        for number in range(pairs):
            for server in (first, second) if number % 2 else (second, first):
                samples[server.name].append(await measure(server, streams))
        one, other = samples[first.name], samples[second.name]
        rows.append(row(what, "tokens/s", streams, [item.rate for item in one], [item.rate for item in other]))
        cpu = f"{what}: CPU of the API process"
        rows.append(row(cpu, "us/token", streams, [item.cpu for item in one], [item.cpu for item in other]))
        for line in rows[-2:]:
            show(line)
    return rows


def row(what: str, unit: str, streams: int, first: Sequence[float], second: Sequence[float]) -> Row:
    """Return the row for paired values."""
    ratios = [one / other for one, other in zip(first, second, strict=True) if other]
    low, high = interval(ratios)
    return Row(
        what=what,
        unit=unit,
        streams=streams,
        ours=statistics.median(first),
        theirs=statistics.median(second),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        pairs=len(ratios),
    )


def show(line: Row) -> None:
    """Print one row of the table: name, measured, anchor, ratio, note."""
    print(
        f"| {line.what}, {line.streams} streams | {line.ours:.1f} {line.unit} | {line.theirs:.1f} {line.unit} "
        f"| {line.ratio:.3f} | 95 % interval {line.low:.3f} to {line.high:.3f}, median of {line.pairs} alternating pairs |",
        flush=True,
    )


async def run(model: Path, pairs: int, folder: Path) -> list[Row]:
    """Run both comparisons."""
    rows: list[Row] = []
    arguments = (*COMMON, *LORA)
    port = free_port()
    async with running("plain-lora", plain(model, port, arguments), port, folder) as anchor:
        async with AsyncExitStack() as stack:
            own = free_port()
            server = await stack.enter_async_context(running("ours", ours(model, own, arguments), own, folder))
            rows += await compare(OURS, server, anchor, pairs)
        bare = free_port()
        async with running("plain", plain(model, bare, COMMON), bare, folder) as without:
            rows += await compare("--enable-lora / without", anchor, without, pairs)
    return rows


def verdict(rows: Sequence[Row]) -> int:
    """Return 1 if our server is slower than the goal at any level: the interval must reach it."""
    missed = [line for line in rows if line.what == OURS and line.unit == "tokens/s" and line.high < GOAL]
    for line in missed:
        print(f"missed: {line.streams} streams, interval up to {line.high:.3f}, goal {GOAL}")
    return 1 if missed else 0


async def demo_model() -> Path:
    """Return the folder of the demo model, trained on the first call."""
    from kaito_local.demo_model.artifact import trained_model

    return await trained_model()


async def main() -> int:
    """Parse, run, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10, help="measurements of each server at each level (default 10)")
    parser.add_argument("--model", type=Path, help="model directory (default: the demo model)")
    options = parser.parse_args()
    model = options.model or await demo_model()
    with tempfile.TemporaryDirectory(prefix="serving-overhead-") as folder:
        return verdict(await run(model.resolve(), options.pairs, Path(folder)))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
