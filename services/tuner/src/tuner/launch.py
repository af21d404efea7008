"""Several training processes on this machine: `python -m tuner.launch COUNT JOB.json`.

torch's own launcher puts each worker into a session of its own, out of reach of whoever kills the launcher, and gives workers
30 seconds after SIGTERM. Here all are one process group: the supervisor's signals reach every one of them, nothing outlives it,
and as soon as one ends badly the others are ended too, for they would wait in a collective operation for ever.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from tuner.exits import ExitCode

LINGER_SECONDS: Final = 5.0
"""Time for the other processes to say why they fail too."""


def ranks(own: Mapping[str, str], count: int, port: int) -> list[dict[str, str]]:
    """Return the environment of each process, as torch.distributed reads it (`env://`). Pure."""
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(port)
    return [{**own, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def main() -> int:
    """Start the processes and wait; return the status of the one that ended badly first, 0 when none did."""
    count, job = int(sys.argv[1]), sys.argv[2]
    # The supervisor signals the whole group: each process obeys for itself, and this one waits for them.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = [sys.executable, "-m", "tuner.train", job]
    running = {
        process.pid: process
        for process in (subprocess.Popen(command, env=own) for own in ranks(os.environ, count, _free_port()))
    }
    worst = 0
    while running:
        pid, status = os.wait()
        if pid not in running:
            continue  # handed to us: a container's launcher may be PID 1
        process = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        worst = worst or code
        # One that was told to stop has no checkpoint to write, the first one has.
        if code not in (ExitCode.OK, ExitCode.INTERRUPTED):
            _end(list(running.values()))
            break
    return worst


def _end(others: list[subprocess.Popen[bytes]]) -> None:
    for process in others:
        try:
            process.wait(LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
