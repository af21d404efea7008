"""The supervisor's side of the child, against small programs that speak the child's protocol."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from kubecore.testing.asserts import eventually
from tuner import child
from tuner.child import Deadlines, End
from tuner.config.recipe import Method, Recipe
from tuner.events import Event, Failed, Note, Saved, Stepped
from tuner.exits import ExitCode, FatalError
from tuner.job import Job
from tuner.launch import ranks
from tuner.schedule import Batch
from tuner.verdict import Again, verdict

pytestmark = pytest.mark.slow  # processes and sockets that are waited for

JOB = Job(
    recipe=Recipe(method=Method.LORA),
    model="/m",
    base_model="m",
    files=(),
    prepared="/p",
    checkpoints="/c",
    staging="/s",
    key="k",
)
PROLOGUE = """
import os, signal, sys, time
from pathlib import Path
import msgspec
from tuner.events import *
from tuner.job import Job
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
emit = Emitter(job.events)
def step(n): emit(Stepped(step=n, epoch=0, loss=1.0, learning_rate=1, tokens_per_second=1, peak_memory_bytes=1))
"""
PATIENT = Deadlines(load=60, step=60, grace=60)


async def play(
    tmp_path: Path, script: str, limits: Deadlines = PATIENT, stop_at: int | None = None, before: str = ""
) -> tuple[End, list[Event]]:
    program = tmp_path / "child.py"
    program.write_text(before + PROLOGUE + script)
    heard: list[Event] = []
    stop = asyncio.Event()

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Stepped) and event.step == stop_at:
            stop.set()

    end = await child.run(JOB, lambda path: [sys.executable, str(program), str(path)], hear, stop, limits)
    return end, heard


def gone(state: Path) -> bool:
    """Whether a process has ended, by its `/proc/PID/stat`."""
    try:
        return state.read_text().rpartition(") ")[2][0] == "Z"  # a zombie waits for its parent alone
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_events_arrive_in_order_and_to_the_last_one(tmp_path: Path) -> None:
    end, heard = await play(tmp_path, "for n in range(500): step(n)\nemit(Saved(step=500))")
    assert end == End(status=0)
    assert [event.step for event in heard if isinstance(event, Stepped)] == list(range(500))
    assert heard[-1] == Saved(step=500)


async def test_what_the_child_says_about_its_failure_is_kept(tmp_path: Path) -> None:
    end, _ = await play(tmp_path, "emit(Failed(code=73, message='no rows'))\nsys.exit(73)")
    assert (end.status, end.failure) == (73, Failed(code=73, message="no rows"))


async def test_a_child_that_dies_without_a_word(tmp_path: Path) -> None:
    end, _ = await play(tmp_path, "step(1)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert end == End(status=-9)


async def test_a_child_that_never_connects(tmp_path: Path) -> None:
    program = tmp_path / "child.py"
    program.write_text("raise SystemExit(3)")
    launch = [sys.executable, str(program)]
    end = await child.run(JOB, lambda path: launch, lambda event: None, asyncio.Event(), PATIENT)
    assert end == End(status=3)


@pytest.mark.parametrize(
    ("script", "limits"),
    [
        ("time.sleep(300)", Deadlines(load=1.5, step=30, grace=30)),
        ("step(1)\ntime.sleep(300)", Deadlines(load=30, step=0.5, grace=30)),
        ("step(1)\nemit._socket.close()\ntime.sleep(300)", Deadlines(load=30, step=0.5, grace=30)),
    ],
)
async def test_a_silent_child_is_taken_for_hung(tmp_path: Path, script: str, limits: Deadlines) -> None:
    end, _ = await play(tmp_path, script, limits)
    assert end.hung
    assert end.status == -6  # SIGABRT: with faulthandler the log says where it stood


async def test_sigterm_reaches_the_child_and_its_checkpoint_is_awaited(tmp_path: Path) -> None:
    script = """
def stop(*_):
    time.sleep(0.3)
    emit(Saved(step=7))
    emit(Failed(code=143, message="stopped"))
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
step(1)
time.sleep(300)
"""
    end, heard = await play(tmp_path, script, stop_at=1)
    assert (end.status, end.hung) == (143, False)
    assert Saved(step=7) in heard


async def test_a_child_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstep(1)\ntime.sleep(300)"
    end, _ = await play(tmp_path, script, Deadlines(load=30, step=30, grace=0.3), stop_at=1)
    assert end.status == -9


async def test_nothing_of_the_child_outlives_it(tmp_path: Path) -> None:
    script = """
import subprocess
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
emit(Note(message=str(worker.pid)))
os._exit(1)
"""
    _, heard = await play(tmp_path, script)
    assert isinstance(heard[0], Note)
    state = Path(f"/proc/{heard[0].message}/stat")
    await eventually(lambda: gone(state), timeout=60)


def test_the_child_knows_no_secrets_and_no_cluster() -> None:
    own = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "HF_TOKEN": "x",
        "POD_NAME": "p",
        "KUBECONFIG": "k",
        "HF_HUB_OFFLINE": "0",
    }
    given = child.environment(own, threads=3)
    assert given["OMP_NUM_THREADS"] == "3"
    assert child.environment({"OMP_NUM_THREADS": "7"}, threads=3)["OMP_NUM_THREADS"] == "7"
    assert {name: given[name] for name in ("PATH", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE")} == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_HUB_OFFLINE": "1",
    }
    assert not {"KUBERNETES_SERVICE_HOST", "HF_TOKEN", "POD_NAME", "KUBECONFIG"} & set(given)


def test_of_several_processes_the_one_that_tells_most_is_believed() -> None:
    told = Failed(code=int(ExitCode.INTERRUPTED), message="stopped")
    assert child.telling([]) is None
    assert child.telling([told, NAN]) == NAN
    assert child.telling([NAN, told, OOM]) == OOM
    assert child.telling([told]) == told


async def test_a_process_that_is_not_the_first_says_why_it_failed(tmp_path: Path) -> None:
    script = """
step(1)
other = Emitter(job.events, first=False)
other(Note(message="not heard"))
other(Failed(code=71, message="the second GPU is full"))
emit(Failed(code=70, message="connection closed by peer"))
sys.exit(70)
"""
    end, heard = await play(tmp_path, script)
    assert end.failure == Failed(code=71, message="the second GPU is full")
    assert not any(isinstance(event, Note) for event in heard)


WAITS_FOR_ITS_TURN = """
import os, pathlib, sys, time
here = pathlib.Path(sys.argv[0]).parent
(here / "pid.new").write_text(str(os.getpid()))
(here / "pid.new").rename(here / "pid")
while not (here / "go").exists():
    time.sleep(0.01)
"""


async def test_a_child_that_is_gone_before_anybody_listens_is_heard_all_the_same(tmp_path: Path) -> None:
    """A supervisor that gets no CPU for a moment: its loop finds the connections, the words and the end all at once."""
    script = """
other = Emitter(job.events, first=False)
other(Failed(code=71, message="the second GPU is full"))
step(1)
emit(Failed(code=70, message="connection closed by peer"))
sys.exit(70)
"""
    pid, go = tmp_path / "pid", tmp_path / "go"

    async def starve() -> None:
        await eventually(pid.exists, timeout=60)
        go.touch()
        state = Path("/proc") / pid.read_text() / "stat"
        while not gone(state):
            time.sleep(0.01)  # noqa: ASYNC251 - on purpose: nothing else of this loop may run
        time.sleep(0.3)  # noqa: ASYNC251 - so that a thread that waits for the child has told the loop as well

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(starve())
        end, heard = await play(tmp_path, script, before=WAITS_FOR_ITS_TURN)
    assert [event.step for event in heard if isinstance(event, Stepped)] == [1]
    assert end == End(status=70, failure=Failed(code=71, message="the second GPU is full"))


async def test_a_child_that_failed_and_stays_is_killed_within_seconds(tmp_path: Path) -> None:
    script = "step(1)\nemit(Failed(code=70, message='broken'))\ntime.sleep(300)"
    async with asyncio.timeout(child.KILL_SECONDS + 30):
        end, _ = await play(tmp_path, script, Deadlines(load=300, step=300, grace=30))
    assert (end.failure, end.hung) == (Failed(code=70, message="broken"), False)


async def test_the_launcher_ends_all_processes_when_one_fails(tmp_path: Path) -> None:
    """The real launcher with the real child: a job that cannot be read fails each of them."""
    job = tmp_path / "job.json"
    job.write_text("{}")
    process = await asyncio.create_subprocess_exec(
        *child.command(2, job), stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    _, log = await process.communicate()
    assert process.returncode == 1
    assert b"ValidationError" in log


def test_each_rank_knows_its_place() -> None:
    first, second = ranks({"PATH": "/bin"}, 2, 1234)
    assert first == {
        "PATH": "/bin",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1234",
        "RANK": "0",
        "LOCAL_RANK": "0",
    }
    assert (second["RANK"], second["LOCAL_RANK"]) == ("1", "1")


OOM = Failed(code=int(ExitCode.OUT_OF_MEMORY), message="oom")
OOM_LOADING = Failed(code=int(ExitCode.OUT_OF_MEMORY), message="oom", before_steps=True)
NAN = Failed(code=int(ExitCode.TRAINING_FAILED), message="the loss became nan")


@pytest.mark.parametrize(
    ("end", "batch", "stopping", "left", "expected"),
    [
        (End(status=0), Batch(8, 1), False, 3, None),
        (End(status=70, failure=NAN), Batch(8, 1), False, 3, ExitCode.TRAINING_FAILED),
        (End(status=71, failure=OOM), Batch(8, 1), False, 0, 4),
        (End(status=71, failure=OOM), Batch(1, 8), False, 3, ExitCode.OUT_OF_MEMORY),
        (End(status=71, failure=OOM_LOADING), Batch(8, 1), False, 3, ExitCode.OUT_OF_MEMORY),
        (End(status=-9, killed_for_memory=True), Batch(2, 4), False, 0, 1),
        (End(status=-9, killed_for_memory=True), Batch(1, 8), False, 3, ExitCode.OUT_OF_MEMORY),
        (End(status=-9), Batch(8, 1), False, 1, None.__class__),
        (End(status=-9), Batch(8, 1), False, 0, ExitCode.TRAINING_FAILED),
        (End(status=-6, hung=True), Batch(8, 1), False, 1, None.__class__),
        (End(status=-6, hung=True), Batch(8, 1), False, 0, ExitCode.TRAINING_HUNG),
        (End(status=-9), Batch(8, 1), True, 3, ExitCode.INTERRUPTED),
        (End(status=143, failure=Failed(code=143, message="x")), Batch(8, 1), False, 1, None.__class__),
        (End(status=0), Batch(8, 1), True, 3, None),
    ],
)
def test_what_an_end_means(end: End, batch: Batch, stopping: bool, left: int, expected: object) -> None:
    found = verdict(end, batch, stopping=stopping, left=left)
    match expected:
        case ExitCode():
            assert isinstance(found, FatalError)
            assert found.code is expected
        case int():
            assert isinstance(found, Again)
            assert found.micro_limit == expected
            assert f"the same {batch.per_device} samples" in found.message
        case None:
            assert found is None
        case _:
            assert isinstance(found, Again)
            assert found.micro_limit is None


def test_memory_that_runs_out_for_good_has_the_reason_of_who_took_it() -> None:
    """The container's limit, whichever process the kernel picks there; or the device, which the child itself tells of."""
    by_kernel = verdict(End(status=-9, killed_for_memory=True), Batch(1, 8), stopping=False, left=3)
    by_device = verdict(End(status=71, failure=OOM), Batch(1, 8), stopping=False, left=3)
    assert isinstance(by_kernel, FatalError)
    assert isinstance(by_device, FatalError)
    assert (by_kernel.reason, by_device.reason) == ("ContainerOOMKilled", "OutOfMemory")
