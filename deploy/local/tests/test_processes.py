"""Recorded processes: found again, ended, never mistaken for another one."""

import fcntl
import os
from pathlib import Path

from kaito_local.processes import Process, ProcessTable, alive, log_tail, start_time
from kubecore.testing.asserts import eventually


async def test_a_started_process_is_found_again_and_ended(tmp_path: Path) -> None:
    started = ProcessTable(tmp_path).start("sleeper", ["/bin/sleep", "60"])
    again = ProcessTable(tmp_path)
    assert again.get("sleeper") == started
    assert again.start("sleeper", ["/bin/sleep", "60"]) == started
    await again.stop("sleeper")
    assert not alive(started)
    assert again.all() == []


async def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    script = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    process = table.start("stubborn", ["/usr/bin/env", "python3", "-c", script])
    await table.stop("stubborn", grace=0.2)
    assert start_time(process.pid) is None


def test_a_pid_given_out_again_is_not_ours() -> None:
    assert start_time(1) is not None
    assert not alive(Process(name="etcd", pid=1, started=(start_time(1) or 0) + 1, log=""))


async def test_the_log_keeps_both_streams(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    process = table.start("speaker", ["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 60"])
    log = Path(process.log)
    await eventually(lambda: log.read_text().count("\n") == 2)
    assert log_tail(process).splitlines() == ["out", "err"]
    await table.stop("speaker")


async def test_a_lock_of_the_caller_ends_with_the_caller(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # A shell hands the descriptors of its locks on like this: `( flock 9; make cluster ) 9>lock`.
        held_by_shell = fcntl.fcntl(held, fcntl.F_DUPFD, 50)
        os.set_inheritable(held_by_shell, True)
        table.start("sleeper", ["/bin/sleep", "60"])
        os.close(held_by_shell)
    with lock.open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await table.stop("sleeper")
