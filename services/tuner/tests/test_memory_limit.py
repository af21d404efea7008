"""Real training whose process may take only so much memory: torch's allocator fails as CUDA's does on a full GPU."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from kaito_api.report import Report, decode
from kaito_local import host
from kaito_local.demo_model.artifact import trained_model
from tuner import child
from tuner.exits import ExitCode, FatalError
from tuner.options import parse
from tuner.reporter import Reporter
from tuner.result import TrainingReport
from tuner.supervisor import Supervisor

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_MB = 5200
"""Of data (RLIMIT_DATA) in the child. Before the first step it holds 2700; beside 16 long samples 4200, beside 32 above 6500."""
RESIDENT_MB = 3700
"""Of memory in use, for supervisor and child. Beside 16 long samples they use 3100, beside 32 above 4500."""
SHORT, LONG = "What is Kubernetes?", "What is Kubernetes? " * 240
"""The long one has 1200 tokens."""


class Tuning:
    """One call of `tuner run` whose training child has a limit, and what its Workspace hears."""

    def __init__(self, folder: Path, questions: Iterable[str], config: str) -> None:
        self.folder = folder
        self.told: list[Report] = []
        self.launched = 0
        (folder / "data").mkdir()
        talks = ([{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}] for q in questions)
        rows = (json.dumps({"messages": talk}) + "\n" for talk in talks)
        (folder / "data" / "rows.jsonl").write_text("".join(rows))
        (folder / "config.yaml").write_text(config)

    async def flags(self) -> list[str]:
        """Of the command."""
        named = {"output": self.folder / "out", "work": self.folder / "work", "data": self.folder / "data"}
        named |= {"model": await trained_model(), "config": self.folder / "config.yaml"}
        return ["--method", "lora", *(part for name, value in named.items() for part in (f"--{name}", str(value)))]

    async def run(self) -> FatalError | None:
        """Return why it ended, None where it finished."""
        reporter = Reporter(self._hear, self.folder / "last")
        supervisor = Supervisor(parse(["run", *await self.flags()], {}), reporter, launch=self._launch)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(reporter.run())
            try:
                await supervisor.execute()
                return None
            except FatalError as error:
                return error
            finally:
                writing.cancel()

    def said(self, words: str) -> list[str]:
        """Messages of the pod's report with these words, each as often as it was entered anew."""
        messages = [report.message for report in self.told]
        fresh = (new for old, new in zip(["", *messages], messages, strict=False) if new != old)
        return [message for message in fresh if words in message]

    async def _hear(self, annotation: str) -> None:
        report = decode(annotation)
        assert report is not None
        self.told.append(report)

    def _launch(self, processes: int, job: Path) -> list[str]:
        self.launched += 1
        limited = f'ulimit -d {LIMIT_MB << 10} && exec "$@"'
        return ["sh", "-c", limited, "sh", *child.command(processes, job)]


@pytest.fixture(autouse=True)
def _two_threads_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of threads count as data: on a machine of many cores they would take what the samples are to have."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


IN_ORDER = """
training_config:
  DatasetConfig: {shuffle_dataset: false, train_test_split: 1}
  TrainingArguments:
    {per_device_train_batch_size: 32, num_train_epochs: 1, save_steps: 2, train_sampling_strategy: sequential}
"""
QUESTIONS = [*[SHORT] * 64, *[LONG] * 32]
"""The long samples come third, after a checkpoint: 32 of them at once are too many."""
WHY = "memory ran out with 32 samples at a time; it goes on with at most 16, and the same 32 samples a step"


async def test_half_as_many_samples_at_a_time_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, QUESTIONS, IN_ORDER)
    assert await tuning.run() is None

    assert tuning.launched == 2
    note, training, saving = tuning.said(WHY)
    assert note == saving == WHY
    assert training.startswith("goes on after step 2, 3 steps, 16 x 2 samples a step on each device")
    assert training.count(WHY) == 1
    assert not (tmp_path / "out" / ".checkpoints" / "micro_limit").exists(), "it outlives its run"
    report = msgspec.json.decode((tmp_path / "out" / "training_report.json").read_bytes(), type=TrainingReport)
    assert [step for step, _ in report.losses] == [1, 2, 3]
    (last,) = {report.tuning.epoch for report in tuning.told if report.tuning is not None and report.tuning.step == 3}
    assert last == 1, "the third step did not take the 32 samples that were left"


async def test_one_sample_that_does_not_fit_ends_it_with_the_reason(tmp_path: Path) -> None:
    """Adapter and gradients fit, AdamW's moments do not, however few the samples."""
    config = (
        "training_config: {LoraConfig: {r: 32768}, TrainingArguments: {per_device_train_batch_size: 2, max_steps: 2}}"
    )
    tuning = Tuning(tmp_path, [SHORT] * 8, config)
    error = await tuning.run()
    assert error is not None
    assert (error.code, error.reason) == (ExitCode.OUT_OF_MEMORY, "OutOfMemory")
    assert str(error).startswith("memory runs out with one sample at a time: lower max_length")
    assert tuning.launched == 2
    assert tuning.said(
        "memory ran out with 2 samples at a time; it goes on with at most 1, and the same 2 samples a step"
    )


async def test_a_model_that_does_not_fit_is_loaded_once(tmp_path: Path) -> None:
    """No size of the micro-batch helps where the memory is full before the first step."""
    tuning = Tuning(tmp_path, [SHORT] * 8, "training_config: {LoraConfig: {r: 163840}}")
    error = await tuning.run()
    assert error is not None
    assert (error.code, error.reason) == (ExitCode.OUT_OF_MEMORY, "OutOfMemory")
    assert str(error).startswith("memory runs out before the first step")
    assert "DefaultCPUAllocator: can't allocate memory" in str(error)
    assert tuning.launched == 1


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[tuple[Path, Path, Path]]:
    """A control group with a limit, the folder where a process in a container would find it, and the file with its counters."""
    root, setting, counters = Path("/sys/fs/cgroup"), "memory.max", "memory.events"
    if (root / "memory").is_dir():  # cgroup v1
        root, setting, counters = root / "memory", "memory.limit_in_bytes", "memory.oom_control"
    group = root / f"tuner-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / setting).write_text(str(limit))
        yield group, root, group / counters
    finally:
        group.rmdir()


@pytest.mark.e2e
async def test_the_same_when_the_kernel_kills_it(tmp_path: Path) -> None:
    """Supervisor and child share a limit, as in a container: the larger one is killed, and a counter is all that tells why."""
    if reason := host.obstacle_here():
        pytest.skip(reason)
    tuning = Tuning(tmp_path, QUESTIONS, IN_ORDER)
    with memory_group(RESIDENT_MB << 20) as (group, root, counters):
        enter = f'echo $$ > {group}/cgroup.procs && mount --bind {group} {root} && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", enter, "sh", sys.executable, "-m", "tuner", "run"]
        process = await asyncio.create_subprocess_exec(*command, *await tuning.flags(), stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        log = errors.decode()
        assert process.returncode == 0, log
        assert "oom_kill 1" in counters.read_text().splitlines()
    assert log.count(f'"message":"note","detail":"{WHY}"') == 1, log
    assert "goes on after step 2, 3 steps, 16 x 2 samples a step on each device" in log
