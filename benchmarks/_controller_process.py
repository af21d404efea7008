"""Starts the controller as users do (its console entry point, leader election included) and reads its meters."""

from __future__ import annotations

import asyncio
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

WRITES = frozenset({"create", "patch", "apply", "update", "delete", "evict"})
_SAMPLE = re.compile(r'kubecore_requests_total\{code="(\d+)",resource="(\w+)",verb="(\w+)"\} ([\d.e+]+)')


@dataclass
class ControllerProcess:
    """A running controller."""

    pid: int
    metrics_port: int

    async def writes(self) -> Counter[str]:
        """Return the writes so far by "verb resource", refused ones marked with their code."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as response,
        ):
            text = await response.text()
        found: Counter[str] = Counter()
        for code, resource, verb, value in _SAMPLE.findall(text):
            if verb in WRITES:
                found[f"{verb} {resource}" + (f" ({code})" if int(code) >= 400 else "")] += int(float(value))
        return found

    def peak_mib(self) -> float:
        """Return the highest resident set size so far in MiB."""
        return self._status("VmHWM")

    def rss_mib(self) -> float:
        """Return the resident set size in MiB."""
        return self._status("VmRSS")

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _status(self, name: str) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024


@asynccontextmanager
async def controller_process(
    kubeconfig: Path, metrics_port: int, log: Path, *extra: str
) -> AsyncIterator[ControllerProcess]:
    """Run the controller until the block ends; it is ready when the block begins."""
    arguments = ["--kubeconfig", str(kubeconfig), "--health-port", "0", "--metrics-port", str(metrics_port)]
    arguments += ["--lease-namespace", "default", *extra]
    command = [sys.executable, "-m", "workspace_controller", *arguments]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:
        await _leads(process, log)
        yield ControllerProcess(process.pid, metrics_port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _leads(process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(60):
        while '"leading"' not in _text(log):
            if process.returncode is not None:
                raise RuntimeError(f"the controller ended: {_text(log)[-2000:]}")
            await asyncio.sleep(0.1)


def _text(log: Path) -> str:
    return log.read_text(errors="replace")
