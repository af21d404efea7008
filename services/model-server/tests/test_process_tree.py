"""process_tree: everything below a process ends, whatever it does about signals and however many generations."""

from __future__ import annotations

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


TOP = """
import os, subprocess, sys
from model_server.process_tree import kill_descendants
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "2", sys.argv[1]], stdout=subprocess.PIPE)
for _ in range(3):
    assert child.stdout.readline() == b"up\\n"
print("up", flush=True)
input()
print(kill_descendants(os.getpid(), 30), flush=True)
"""


def test_grandchildren_that_ignore_signals_end_too() -> None:
    # Of a process of its own: below this one stand the control plane and whatever else the session has started.
    top = subprocess.Popen(
        [sys.executable, "-c", TOP, STUBBORN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert top.stdin is not None
    assert top.stdout is not None
    assert top.stdout.readline() == "up\n"
    below = psutil.Process(top.pid).children(recursive=True)
    assert len(below) == 3
    assert top.communicate("\n", 60)[0] == "True\n"
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)


def test_nothing_to_end_is_fine() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert kill_descendants(child.pid, 1)
    assert child.poll() is None
    child.communicate(b"\n", 30)
