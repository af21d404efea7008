"""pid1: as the first process of a container it forwards signals, reaps orphans and speaks for a killed server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from model_server import pid1

PARENT = """
import sys
from pathlib import Path
from model_server import pid1
sys.exit(pid1.run([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("init", "pid", "expected"),
    [("auto", 1, True), ("auto", 7, False), ("always", 7, True), ("never", 1, False)],
)
def test_wanted(init: str, pid: int, expected: bool) -> None:
    assert pid1.wanted(init, pid) is expected


def test_the_command_of_the_server_keeps_vllms_arguments_apart() -> None:
    assert pid1.server_command(["serve", "--", "--seed=1"])[-4:] == ["--init", "never", "--", "--seed=1"]


class Init:
    """`pid1.run` in a process of its own, around a child program."""

    def __init__(self, folder: Path, child: str) -> None:
        self.termination_log = folder / "termination.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, textwrap.dedent(child), str(self.termination_log)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


def test_the_childs_exit_code_is_ours(tmp_path: Path) -> None:
    init = Init(tmp_path, "import sys; sys.exit(67)")
    assert init.end() == 67
    assert not init.termination_log.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_child(tmp_path: Path, number: int) -> None:
    child = f"""
        import signal, sys
        signal.signal({int(number)}, lambda *_: sys.exit(5))
        print("up", flush=True)
        signal.pause()
    """
    init = Init(tmp_path, child)
    assert init.line() == "up"
    init.process.send_signal(number)
    assert init.end() == 5


def test_a_server_that_ends_by_the_signal_it_was_sent_has_nothing_to_report(tmp_path: Path) -> None:
    init = Init(tmp_path, 'import signal; print("up", flush=True); signal.pause()')
    assert init.line() == "up"
    init.process.send_signal(signal.SIGTERM)
    assert init.end() == 143
    assert not init.termination_log.exists()


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """The grandchild's parent ends at once; were it not reaped, it would stay as a zombie under the init process."""
    child = """
        import os, time
        if os.fork() == 0:
            pid = os.fork()
            if pid:
                print(pid, flush=True)
            os._exit(0)
        os.wait()
        import signal; signal.pause()
    """
    init = Init(tmp_path, child)
    orphan = int(init.line())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)  # the init process does not say when it has reaped
    else:
        status = Path(f"/proc/{orphan}/status").read_text()
        pytest.fail(f"orphan still there: {status}")
    init.process.send_signal(signal.SIGTERM)
    assert init.end() == 143, "the end of an orphan is not the end of the server"


def test_a_killed_server_leaves_a_word(tmp_path: Path) -> None:
    init = Init(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    code = init.end()
    report = json.loads(init.termination_log.read_text())
    assert (code, report["reason"]) in {(70, "EngineFailed"), (71, "OutOfMemory")}
    assert report["state"] == "Failed"
    assert "SIGKILL" in report["message"]
