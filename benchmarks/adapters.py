"""Adapters: from the edit of the Workspace to the first answer, and what the others feel of it.

A real etcd, kube-apiserver and registry, and our server with vLLM on the CPU. Measured one after another in one run:

  * an adapter added to the Workspace -> first 200 from it, with 100 MB and 10 MB, on an idle server and under 32 streams;
    each time the bytes come from the registry again
  * a changed strength -> first 200 after the pod said so
  * the same load and the same first request in plain vLLM, with its files already in place. No load can go below it;
    the first token can: on a CPU plain vLLM copies an adapter for every token that uses it, our worker for it does not
  * the same change KAITO's way: the pod's process is ended, the adapter pulled to a folder, the server started with it
  * the longest pause between two tokens of the 32 streams while an adapter loads, beside the longest without; failed requests
  * tokens/s of 8 streams on the base, on one adapter, and on eight

    python benchmarks/adapters.py [--rounds 20] [--restarts 2] [--idle-only | --strength-only]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._adapter_files import make_adapter, make_model, push
from benchmarks._adapter_streams import PROMPT, rate, under_load
from benchmarks._control_plane import own_control_plane
from benchmarks._pod_reports import PodReports

from kaito_api.meta import Key
from kaito_api.resources import PODS, WORKSPACES
from kaito_oci import pull
from kaito_oci.testing.docker_registry import docker_registry
from kubecore.client import Client
from kubecore.config import load_config
from kubecore.transport import Transport

RANKS = {"100 MB": 512, "10 MB": 64}
GOALS = {"100 MB": 1.5, "10 MB": 0.8}
STRENGTH_GOAL = 0.3
PHASES = ("resolve", "peek", "pull", "preflight", "stage", "engine")
RESTRENGTHENED = ("resolve", "preflight", "stage", "engine")
"""What of it another strength of a loaded adapter goes through."""
STREAMS = 32
NAME, SPACE, POD = "bench", "default", "bench-0"
ENGINE = ("--enable-lora", "--max-cpu-loras=20", "--max-model-len=1024", "--max-num-seqs=64", "--dtype=bfloat16")
SLOTS = {512: 2, 64: 8}
"""By rank: a slot of rank 512 takes 100 MB whatever lies in it, and every token that uses it pays for all of that."""
START_SECONDS = 600.0
SERVED_SECONDS = 120.0
THREADS = max(1, (os.cpu_count() or 2) - 1)
"""vLLM's own default on a CPU: one core is left to the server. Not bound to certain cores, which others here use as well.
With a thread for every core each of vLLM's barriers waits for whatever else runs: a load of 20 ms then takes 500."""


@dataclass
class Bench:
    """Everything that stands."""

    folder: Path
    model: Path
    kubeconfig: Path
    registry: str
    client: Client
    http: aiohttp.ClientSession
    reports: PodReports
    port: int = 0
    process: asyncio.subprocess.Process | None = None
    failures: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, rank: int, *arguments: str) -> None:
        """Start the server with slots of that rank and wait until it is ready."""
        self.port = free_port()
        command = [sys.executable, "-m", "model_server", "serve", "--model", str(self.model), "--disable-rate-limit"]
        command += ["--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workspace", f"{SPACE}/{NAME}", "--adapter-store", str(self.folder / "store")]
        command += ["--plain-http", self.registry, *arguments]
        environment = engine_environment() | {
            "KUBECONFIG": str(self.kubeconfig),
            "POD_NAME": POD,
            "POD_NAMESPACE": SPACE,
            "MODEL_SERVER_TERMINATION_LOG": str(self.folder / "termination.log"),
        }
        slots = slot_arguments(rank)
        with (self.folder / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, "--", *ENGINE, *slots, stdout=log, stderr=log, env=environment
            )
        await until(self._ready, START_SECONDS, 0.05)

    async def stop(self) -> None:
        """End the server as kubelet does."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), 120)

    async def _ready(self) -> bool:
        if self.process is not None and self.process.returncode is not None:
            raise RuntimeError(f"the server ended: {(self.folder / 'server.log').read_text()[-2000:]}")
        try:
            async with self.http.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def want(self, *adapters: dict[str, Any]) -> None:
        """Edit the Workspace."""
        await self.client.patch(WORKSPACES, Key(SPACE, NAME), {"inference": {"adapters": list(adapters)}})

    async def serves(self, model: str) -> bool:
        """Whether one token comes from `model`."""
        body = {"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0}
        async with self.http.post(f"{self.url}/v1/completions", json=body) as answer:
            await answer.read()
            return answer.status == 200

    async def ready(self, name: str, strength: str = "1") -> None:
        """Wait until the pod says that it serves an adapter at that strength."""
        async with asyncio.timeout(SERVED_SECONDS):
            await self.reports.wait(name, lambda entry: (entry.state, entry.strength) == ("Ready", strength))

    async def seconds_in(self) -> dict[str, float]:
        """Seconds that the server spent in each phase of loads so far."""
        async with self.http.get(f"{self.url}/metrics") as answer:
            text = await answer.text()
        return {phase: float(seconds) for phase, seconds in _PHASE.findall(text)}


_PHASE = re.compile(r'^kaito_adapter_load_seconds_sum\{phase="(\w+)"\} (\S+)$', re.MULTILINE)


def engine_environment() -> dict[str, str]:
    """Return the environment of the engine, ours and the plain one."""
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(THREADS)}
    return os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"} | threads


def slot_arguments(rank: int) -> tuple[str, str]:
    """Return the engine's arguments for slots of that rank."""
    return (f"--max-lora-rank={rank}", f"--max-loras={SLOTS[rank]}")


def adapter(name: str, image: str, strength: str = "1") -> dict[str, Any]:
    """An entry of inference.adapters."""
    return {"source": {"name": name, "image": image}, "strength": strength}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, pause: float) -> None:
    """Ask again until it is true: what is measured is another process, seen as a client sees it."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(pause)


class Edit(NamedTuple):
    """When an adapter was added to the Workspace, when the pod said that it serves it, and when the first answer was there."""

    begun: float
    ready: float
    answered: float

    @property
    def seconds(self) -> float:
        """From the edit to the first answer."""
        return self.answered - self.begun


async def added(bench: Bench, image: str, number: int) -> Edit:
    """Add an adapter and ask it once. Afterwards it and its bytes are removed again."""
    name = f"new-{number}"
    begun = time.perf_counter()
    await bench.want(adapter(name, image))
    await bench.ready(name)
    ready = time.perf_counter()
    served = await bench.serves(name)
    edit = Edit(begun, ready, time.perf_counter())
    if not served:
        raise RuntimeError(f"{name} is Ready and does not answer")
    await bench.want()
    pulled = bench.folder / "store" / "pulled"

    async def gone() -> bool:
        return bench.reports.entry(name) is None and not list(pulled.iterdir())

    await until(gone, SERVED_SECONDS, 0.05)
    return edit


async def restrengthened(bench: Bench, image: str, rounds: int) -> tuple[list[Edit], dict[str, float]]:
    """Edits of a strength, and the mean milliseconds that the server spent in each phase of them."""
    await bench.want(adapter("loud", image))
    await bench.ready("loud")
    before = await bench.seconds_in()
    taken = []
    for number in range(rounds):
        strength = f"{(number + 10) / 1000:g}"
        begun = time.perf_counter()
        await bench.want(adapter("loud", image, strength))
        await bench.ready("loud", strength)
        ready = time.perf_counter()
        if not await bench.serves("loud"):
            raise RuntimeError(f"loud is Ready at {strength} and does not answer")
        taken.append(Edit(begun, ready, time.perf_counter()))
    spent = spent_in(before, await bench.seconds_in(), rounds)
    await bench.want()
    return taken, spent


async def restarted(bench: Bench, image: str, number: int) -> float:
    """Seconds from the end of the pod's process to the first answer with the adapter named at the start, as in KAITO."""
    folder = bench.folder / f"static-{number}"
    begun = time.perf_counter()
    await bench.stop()
    await pull(image, folder / "static", path="data", plain_http_hosts=[bench.registry])
    await bench.want({"source": {"name": "static", "volumeSource": {"emptyDir": {}}}})
    await bench.start(RANKS["100 MB"], "--adapters-dir", str(folder))
    await until(lambda: bench.serves("static"), SERVED_SECONDS, 0.01)
    return time.perf_counter() - begun


def p95(values: list[float]) -> float:
    """The 95th percentile, the highest of few."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]


def row(what: str, measured: str, anchor: str, ratio: float, note: str) -> None:
    print(f"| adapters: {what} | {measured} | {anchor} | {ratio:.2f} | {note} |", flush=True)


async def measure_idle(bench: Bench, images: dict[str, str], rounds: int, strength_only: bool) -> None:
    """Only what the goals are about, in some minutes."""
    for size, image in images.items():
        plain = await plain_engine(bench, size, rounds)
        await bench.start(RANKS[size])
        if not strength_only:
            await edits(bench, size, image, plain, rounds)
        await strength(bench, size, image, plain, rounds)
        await bench.stop()


async def measure(bench: Bench, images: dict[str, str], eight: list[str], rounds: int, restarts: int) -> None:
    """Everything, one after another: on a server with slots of rank 512, then on one of rank 64."""
    plain = await plain_engine(bench, "100 MB", rounds)
    await bench.start(RANKS["100 MB"])
    calm = await edits(bench, "100 MB", images["100 MB"], plain, rounds)
    await strength(bench, "100 MB", images["100 MB"], plain, rounds)
    await felt(bench, "100 MB", images["100 MB"], calm, max(3, rounds // 3))
    pods = [await restarted(bench, images["100 MB"], number) for number in range(restarts)]
    if pods:
        there = statistics.median(pods)
        note = f"median of {restarts} restarts, weights already there; nothing answers meanwhile"
        row("the same by a pod restart, 100 MB", f"{calm:.2f} s", f"{there:.1f} s", calm / there, note)
    await bench.want()
    await bench.stop()
    plain = await plain_engine(bench, "10 MB", rounds)
    await bench.start(RANKS["10 MB"])
    calm = await edits(bench, "10 MB", images["10 MB"], plain, rounds)
    await strength(bench, "10 MB", images["10 MB"], plain, rounds)
    await felt(bench, "10 MB", images["10 MB"], calm, max(3, rounds // 3))
    await throughput(bench, eight)
    row(
        "failed requests", str(len(bench.failures)), "goal 0", float(len(bench.failures)), "; ".join(bench.failures[:2])
    )


async def plain_engine(bench: Bench, size: str, rounds: int) -> dict[str, float]:
    """Median seconds of a base request, a load and a first request in plain vLLM, in a process of its own."""
    rank = RANKS[size]
    script = str(Path(__file__).with_name("_plain_engine.py"))
    command = [sys.executable, script, str(bench.folder / f"rank-{rank}"), str(rounds), "--"]
    process = await asyncio.create_subprocess_exec(
        *command,
        f"--model={bench.model}",
        *ENGINE,
        *slot_arguments(rank),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=engine_environment(),
    )
    said, _ = await asyncio.wait_for(process.communicate(), START_SECONDS + rounds * SERVED_SECONDS)
    if process.returncode:
        raise RuntimeError(f"plain vLLM ended with {process.returncode}")
    taken: dict[str, list[float]] = json.loads(said.splitlines()[-1])
    return {what: statistics.median(seconds) for what, seconds in taken.items()}


async def edits(bench: Bench, size: str, image: str, plain: dict[str, float], rounds: int) -> float:
    """Adapters added on the idle server; returns the median of seconds."""
    before = await bench.seconds_in()
    taken = [(await added(bench, image, number)).seconds for number in range(rounds)]
    after = await bench.seconds_in()
    calm, goal = statistics.median(taken), GOALS[size]
    note = f"p95 of {rounds}; median {calm:.2f} s; server idle"
    row(f"edit to first 200, {size}", f"{p95(taken):.2f} s", f"goal {goal} s", p95(taken) / goal, note)
    spent = spent_in(before, after, rounds)
    mean = ", ".join(f"{phase} {spent[phase]:.0f}" for phase in PHASES)
    beside_plain(f"edit to first 200, {size}", calm, plain, "whole", f"; ours by phase, mean ms: {mean}")
    return calm


def spent_in(before: dict[str, float], after: dict[str, float], rounds: int) -> dict[str, float]:
    """Mean milliseconds of a round in each phase."""
    return {phase: 1000 * (seconds - before.get(phase, 0)) / rounds for phase, seconds in after.items()}


async def strength(bench: Bench, size: str, image: str, plain: dict[str, float], rounds: int) -> None:
    """Another strength of an adapter that serves."""
    edits, spent = await restrengthened(bench, image, rounds)
    taken = [edit.seconds for edit in edits]
    calm = statistics.median(taken)
    note = f"p95 of {rounds}; median {calm:.2f} s; seen through the pod's report"
    row(
        f"strength only, {size}",
        f"{p95(taken):.2f} s",
        f"goal {STRENGTH_GOAL} s",
        p95(taken) / STRENGTH_GOAL,
        note,
    )
    first = 1000 * statistics.median(edit.answered - edit.ready for edit in edits)
    mean = ", ".join(f"{phase} {spent[phase]:.0f}" for phase in (*RESTRENGTHENED, "total"))
    more = f"; ours: first answer {first:.0f} ms after the pod's report; by phase, mean ms: {mean}"
    beside_plain(f"strength only, {size}", calm, plain, "scaled", more)


def beside_plain(what: str, calm: float, plain: dict[str, float], kind: str, more: str) -> None:
    """Compare with what plain vLLM needs for the load and the first token alone."""
    load, first = plain[f"load {kind}"], plain[f"first {kind}"]
    parts = f"add_lora {1000 * load:.0f} ms + first token {1000 * first:.0f} ms (base {1000 * plain['base']:.0f} ms)"
    row(
        f"{what} / vLLM alone",
        f"{calm:.2f} s",
        f"{load + first:.2f} s",
        calm / (load + first),
        f"medians; {parts}{more}",
    )


async def throughput(bench: Bench, eight: list[str]) -> None:
    """Tokens/s of eight streams on the base, on one adapter and on eight."""
    base = await rate(bench, [NAME] * 8, 15)
    await bench.want(*(adapter(f"e{number}", image) for number, image in enumerate(eight)))
    for number in range(len(eight)):
        await bench.ready(f"e{number}")
    for count in (1, 8):
        found = await rate(bench, [f"e{number % count}" for number in range(8)], 15)
        row(f"tokens/s with {count} in use", f"{found:.0f}/s", f"base {base:.0f}/s", found / base, "8 streams, rank 64")


async def felt(bench: Bench, size: str, image: str, calm: float, rounds: int) -> None:
    """Under 32 streams: how much longer an edit takes, and the longest pause that it makes for the others."""
    async with under_load(bench, [NAME] * STREAMS) as load:
        await asyncio.sleep(5)
        begun = time.perf_counter()
        await asyncio.sleep(10)
        quiet = load.longest(begun, time.perf_counter())
        found = [await added(bench, image, 100 + number) for number in range(rounds)]
        loading = max(load.longest(edit.begun, edit.ready) for edit in found)
        asking = max(load.longest(edit.ready, edit.answered) for edit in found)
    busy = statistics.median(edit.seconds for edit in found)
    note = f"median of {rounds}, {STREAMS} streams"
    row(f"edit to first 200 under load, {size}", f"{busy:.2f} s", f"idle {calm:.2f} s", busy / calm, note)
    alone = f"{1000 * quiet:.0f} ms without a load"
    for when, worst in (("while it loads", loading), ("at its first request", asking)):
        extra = f"{1000 * (worst - quiet):.0f} ms more, {STREAMS} streams, {rounds} loads"
        row(f"longest pause of the others {when}, {size}", f"{1000 * worst:.0f} ms", alone, worst / quiet, extra)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def parent(rounds: int, restarts: int, idle_only: bool, strength_only: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kaito-bench-")))
        kubeconfig = await own_control_plane(stack, folder / "plane")
        (folder / "registry").mkdir()
        registry = await stack.enter_async_context(docker_registry(folder / "registry"))
        transport = await stack.enter_async_context(Transport(load_config(str(kubeconfig)), user_agent="bench"))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_read=120)
            )
        )
        model = await asyncio.to_thread(make_model, folder / "model")
        images = {}
        for size, rank in RANKS.items():
            made = await asyncio.to_thread(make_adapter, folder / f"rank-{rank}", rank, rank)
            images[size] = await push(made, f"{registry.host}/bench/adapter:r{rank}")
        eight = []
        for number in range(0 if idle_only else 8):
            made = await asyncio.to_thread(make_adapter, folder / f"eight-{number}", 64, 1000 + number)
            eight.append(await push(made, f"{registry.host}/bench/adapter:e{number}"))
        client = Client(transport)
        await create(client)
        reports = PodReports(client, Key(SPACE, POD))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(group.create_task(reports.run()).cancel)
        bench = Bench(folder, model, kubeconfig, registry.host, client, http, reports)
        stack.push_async_callback(bench.stop)
        if idle_only:
            await measure_idle(bench, images, rounds, strength_only)
        else:
            await measure(bench, images, eight, rounds, restarts)


async def create(client: Client) -> None:
    """Create the Workspace and the pod that the server belongs to."""
    spec = {
        "metadata": {"name": NAME, "namespace": SPACE},
        "resource": {"labelSelector": {"matchLabels": {"apps": NAME}}},
        "inference": {"preset": {"name": "phi-3-mini-4k-instruct"}},
    }
    await client.create(WORKSPACES, spec)
    containers = [{"name": "model-server", "image": "none"}]
    pod = {"containers": containers, "automountServiceAccountToken": False}
    await client.create(PODS, {"metadata": {"name": POD, "namespace": SPACE}, "spec": pod})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="edits of each kind on the idle server")
    parser.add_argument("--restarts", type=int, default=2, help="pod restarts to compare with")
    parser.add_argument("--idle-only", action="store_true", help="only edits on an idle server: some minutes")
    parser.add_argument("--strength-only", action="store_true", help="only changed strengths on an idle server")
    options = parser.parse_args()
    idle_only = options.idle_only or options.strength_only
    asyncio.run(parent(options.rounds, options.restarts, idle_only, options.strength_only))


if __name__ == "__main__":
    main()
