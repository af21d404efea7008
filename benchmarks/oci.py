"""Push and pull of one large blob: kaito_oci beside plain oras-py, in alternating runs against the same real registry.

Every run is a process of its own, so its peak memory is its own. The files lie on a tmpfs where there is room: write-back to a
disk would drown the difference. Digests are verified on our side and not on the other. Goal: ratio of time <= 1.0, peak
<= 80 MiB.

    python benchmarks/oci.py [--mib 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

CASES = ("push", "pull", "pull-image")
"""`pull-image` unpacks the layer on our side; oras-py only stores it."""


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
                    sides = ("ours", "oras-py") if count % 2 else ("oras-py", "ours")
                    for side in sides:
                        # A repository that never had the blob: the registry takes every byte again.
                        fresh = f"{registry.host}/bench/{case}-{side}-{count}:v1"
                        stored = "image" if case == "pull-image" else "artifact"
                        target = fresh if case == "push" else f"{registry.host}/bench/{stored}:v1"
                        runs.setdefault((case, side), []).append(await run(side, case, target, folder))
        report(runs, mib)


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


def report(runs: dict[tuple[str, str], list[Run]], mib: int) -> None:
    pairs = len(runs["push", "ours"])
    for case in CASES:
        mine, theirs = runs[case, "ours"], runs[case, "oras-py"]
        ratio = statistics.median(one.seconds / other.seconds for one, other in zip(mine, theirs, strict=True))
        own, other = (statistics.median(one.seconds for one in side) for side in (mine, theirs))
        peaks = [max(one.mib for one in side) for side in (mine, theirs)]
        note = f"median of {pairs} pairs; peak RSS {peaks[0]:.0f} MiB against {peaks[1]:.0f} MiB"
        print(f"| oci {case} {mib} MiB | {own:.2f} s | oras-py {other:.2f} s | {ratio:.2f} (<= 1.0) | {note} |")


def child(side: str, case: str, target: str, name: str) -> None:
    folder = Path(name)
    pulled = folder / "pulled"
    shutil.rmtree(pulled, ignore_errors=True)
    os.chdir(folder)
    seconds = asyncio.run(ours(case, target, folder, pulled)) if side == "ours" else plain(case, target, pulled)
    # Not ru_maxrss: that one starts from the parent's.
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    shutil.rmtree(pulled, ignore_errors=True)
    print(json.dumps({"seconds": seconds, "mib": int(peak) / 1024}))


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
