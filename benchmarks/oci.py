"""Push and pull of one large blob: kaito_oci beside plain oras-py and beside ORAS's own command (oras-go), in alternating runs
against the same real registry.

Every run is a process of its own, so its peak memory is its own. The files lie on a tmpfs where there is room: write-back to a
disk would drown the difference. Digests are verified by oras-go and on our side, not by oras-py. The Python sides are timed from
their first call, without the start of the interpreter; of the command, which starts in milliseconds, the whole process is.
Each round gives one ratio; the median and its 95 % interval (bootstrap) are printed. Goal: ratio <= 1.0, peak <= 80 MiB.

The command is built from tools/oras when Go is there; without it the rows against oras-py stand alone.

    python benchmarks/oci.py [--mib 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CASES = ("push", "pull", "pull-image")
"""`pull-image` unpacks the layer on our side; oras-py only stores it, and oras-go skips a layer without a title."""
GOAL, PEAK_MIB = 1.0, 80
RESAMPLES = 5000
LOOK_SECONDS = 0.02
"""Between two looks at another program's high-water mark, which is gone with its end."""


@dataclass(frozen=True)
class Run:
    """One measured process."""

    seconds: float
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the blob in MiB")
    parser.add_argument("--rounds", type=int, default=5, help="alternating pairs")
    parser.add_argument("--child", nargs=4, metavar=("SIDE", "CASE", "HOST", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
    else:
        asyncio.run(parent(options.mib, options.rounds))


async def parent(mib: int, rounds: int) -> None:
    from kaito_oci.testing.docker_registry import docker_registry

    oras = await oras_command()
    with tempfile.TemporaryDirectory(prefix="kaito-bench-", dir=roomy(4 * mib)) as name:
        folder = Path(name)
        write_random(folder / "blob.bin", mib)
        (folder / "registry").mkdir()
        runs: dict[tuple[str, str], list[Run]] = {}
        async with docker_registry(folder / "registry") as registry:
            await run("oras-py", "push", f"{registry.host}/bench/artifact:v1", folder)
            await run("ours", "push-image", f"{registry.host}/bench/image:v1", folder)
            for count in range(rounds):
                for case in CASES:
                    sides = ["ours", "oras-py", *(["oras-go"] if oras and case != "pull-image" else [])]
                    turn = count % len(sides)
                    for side in sides[turn:] + sides[:turn]:
                        # A repository that never had the blob: the registry takes every byte again.
                        fresh = f"{registry.host}/bench/{case}-{side}-{count}:v1"
                        stored = "image" if case == "pull-image" else "artifact"
                        target = fresh if case == "push" else f"{registry.host}/bench/{stored}:v1"
                        if side == "oras-go" and oras is not None:
                            measured = await run_oras(oras, case, target, folder)
                        else:
                            measured = await run(side, case, target, folder)
                        runs.setdefault((case, side), []).append(measured)
        report(runs, mib)


async def oras_command() -> Path | None:
    """ORAS's command, found or built; None with a reason on stderr."""
    from kaito_local.binaries import ensure
    from kaito_local.errors import LocalError

    try:
        return (await ensure(("oras",)))["oras"]
    except LocalError as error:
        print(f"no rows against oras-go: {error}", file=sys.stderr)
        return None


def roomy(mib: int) -> Path | None:
    """A tmpfs with that much room, or None for the usual place."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > mib * 2**20 else None


def write_random(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(2**20))


async def run(side: str, case: str, target: str, folder: Path) -> Run:
    command = [sys.executable, __file__, "--child", side, case, target, str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"{side} {case} failed")
    return Run(**json.loads(output.splitlines()[-1]))


async def run_oras(oras: Path, case: str, target: str, folder: Path) -> Run:
    """One push or pull by the command, in the folder of the blob."""
    pulled = folder / "pulled"
    shutil.rmtree(pulled, ignore_errors=True)
    what = ("push", target, "blob.bin") if case == "push" else ("pull", target, "--output", str(pulled))
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        str(oras), *what, "--plain-http", "--no-tty", cwd=folder, stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while process.returncode is None:
        peak = max(peak, peak_mib(process.pid))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await process.wait()
    seconds = time.monotonic() - started
    if process.returncode or (case == "pull" and not (pulled / "blob.bin").is_file()):
        raise SystemExit(f"oras {case} failed")
    shutil.rmtree(pulled, ignore_errors=True)
    return Run(seconds, peak)


def peak_mib(pid: int | str) -> float:
    """A process's high-water mark in MiB; 0 for one that has ended. Not ru_maxrss: that one starts from the parent's."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def interval(values: Sequence[float], seed: int = 7) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    source = random.Random(seed)
    medians = sorted(statistics.median(source.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def report(runs: dict[tuple[str, str], list[Run]], mib: int) -> None:
    for (case, side), theirs in runs.items():
        if side == "ours":
            continue
        mine = runs[case, "ours"]
        ratios = [one.seconds / other.seconds for one, other in zip(mine, theirs, strict=True)]
        low, high = interval(ratios)
        own, other = (statistics.median(one.seconds for one in each) for each in (mine, theirs))
        peak, their_peak = (max(one.mib for one in each) for each in (mine, theirs))
        note = (
            f"95 % interval {low:.2f} to {high:.2f}, median of {len(ratios)} alternating rounds; "
            f"peak RSS {peak:.0f} MiB (<= {PEAK_MIB}) against {their_peak:.0f} MiB"
        )
        ratio = f"{statistics.median(ratios):.2f} (<= {GOAL})"
        print(f"| oci {case} {mib} MiB | {own:.2f} s | {side} {other:.2f} s | {ratio} | {note} |")


def child(side: str, case: str, target: str, name: str) -> None:
    folder = Path(name)
    pulled = folder / "pulled"
    shutil.rmtree(pulled, ignore_errors=True)
    os.chdir(folder)
    seconds = asyncio.run(ours(case, target, folder, pulled)) if side == "ours" else plain(case, target, pulled)
    peak = peak_mib("self")
    shutil.rmtree(pulled, ignore_errors=True)
    print(json.dumps({"seconds": seconds, "mib": peak}))


async def ours(case: str, target: str, folder: Path, pulled: Path) -> float:
    import msgspec

    import kaito_oci
    from kaito_oci import media_types

    hosts = [target.partition("/")[0]]
    started = time.monotonic()
    if case in {"pull", "pull-image"}:
        await kaito_oci.pull(target, pulled, path="/data", plain_http_hosts=hosts)
        return time.monotonic() - started
    blob: kaito_oci.Blob
    if case == "push":
        blob = await asyncio.to_thread(
            kaito_oci.FileBlob, folder / "blob.bin", media_types.OCI_LAYER_TAR, {media_types.TITLE: "blob.bin"}
        )
        config = kaito_oci.BytesBlob(b"{}", media_types.OCI_EMPTY)
    else:
        members = [kaito_oci.Member("data/blob.bin", folder / "blob.bin")]
        blob = await asyncio.to_thread(kaito_oci.TarBlob, members, media_types.OCI_LAYER_TAR)
        config = kaito_oci.BytesBlob(b"{}", media_types.OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": config.descriptor,
        "layers": [blob.descriptor],
    }
    await kaito_oci.push(target, [config, blob], msgspec.json.encode(manifest), plain_http_hosts=hosts)
    return time.monotonic() - started


def plain(case: str, target: str, pulled: Path) -> float:
    import oras.client

    client = oras.client.OrasClient(insecure=True)
    pulled.mkdir()
    started = time.monotonic()
    if case == "push":
        client.push(target, files=["blob.bin"], quiet=True)
    else:
        client.pull(target, outdir=str(pulled))
    return time.monotonic() - started


if __name__ == "__main__":
    main()
