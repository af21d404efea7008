"""process_tree: everything below a process ends, whatever it does about signals and however many generations."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from model_server.process_tree import kill_descendants

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
depth = int(sys.argv[1])
if depth:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]])
print("up", flush=True)
time.sleep(600)
"""


def test_grandchildren_that_ignore_signals_end_too() -> None:
    child = subprocess.Popen([sys.executable, "-c", STUBBORN, "2", STUBBORN], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(3):
        assert child.stdout.readline() == b"up\n"
    below = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    assert len(below) == 3
    assert kill_descendants(os.getpid(), 30)
    child.wait(30)
    child.stdout.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)


def test_nothing_to_end_is_fine() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert kill_descendants(child.pid, 1)
    assert child.poll() is None
    child.communicate(b"\n", 30)
