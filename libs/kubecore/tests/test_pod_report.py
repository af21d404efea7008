"""Reporter: states at once, progress seldom, failures retried, the last word kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kaito_api.meta import Key
from kaito_api.report import Progress, Report, decode
from kubecore.pod_report import JITTER, PROGRESS_SECONDS, PodReporter, ReportUnwrittenError, own_pod
from kubecore.termination import termination_log
from kubecore.testing.asserts import eventually
from kubecore.testing.clock import FakeClock


class Pod:
    """The other side: keeps what was written, or fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.written: list[Report] = []
        self.failures = failures
        self.calls = 0

    async def __call__(self, value: str) -> None:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise ReportUnwrittenError("503")
        report = decode(value)
        assert report is not None
        self.written.append(report)


@asynccontextmanager
async def running(pod: Pod, clock: FakeClock, log: Path) -> AsyncIterator[PodReporter]:
    reporter = PodReporter(clock=clock, annotate=pod, termination_log=log)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reporter.run())
        yield reporter
        task.cancel()


async def test_a_state_is_written_at_once_and_progress_waits(tmp_path: Path) -> None:
    pod, clock = Pod(), FakeClock()
    async with running(pod, clock, tmp_path / "log") as reporter:
        reporter.state("Pulling")
        await eventually(lambda: len(pod.written) == 1)
        for done in range(100):
            reporter.change(urgent=False, progress=Progress(phase="weights", done=done, total=100, unit="bytes"))
        await clock.advance(PROGRESS_SECONDS * (1 - JITTER) - 0.1)
        assert len(pod.written) == 1
        await clock.advance(PROGRESS_SECONDS * 2 * JITTER + 0.2)
        await eventually(lambda: len(pod.written) == 2)
        progress = pod.written[1].progress
        assert progress is not None
        assert progress.done == 99
        reporter.change(urgent=False, progress=Progress(phase="weights", done=100, total=100, unit="bytes"))
        reporter.state("Loading")
        await eventually(lambda: len(pod.written) == 3)
        assert (pod.written[2].state, pod.written[2].progress) == ("Loading", None)


async def test_a_failed_write_is_tried_again_with_the_newest_report(tmp_path: Path) -> None:
    pod, clock = Pod(failures=2), FakeClock()
    async with running(pod, clock, tmp_path / "log") as reporter:
        reporter.state("Loading")
        await eventually(lambda: pod.calls == 1)
        reporter.state("Ready")
        for _ in range(3):
            await clock.advance(5)
        await eventually(lambda: len(pod.written) == 1)
        assert pod.written[0].state == "Ready"


async def test_the_last_word_is_in_the_termination_log_even_when_the_apiserver_is_away(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pod = Pod(failures=99)
    reporter = PodReporter(clock=FakeClock(), annotate=pod, termination_log=log)
    reporter.state("Failed", reason="OutOfMemory", message="x" * 50_000)
    await reporter.last_word(1)
    assert log.stat().st_size <= 4096
    report = decode(log.read_text())
    assert report is not None
    assert (report.state, report.reason) == ("Failed", "OutOfMemory")


async def test_outside_of_a_cluster_only_the_log_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reporter = PodReporter(clock=FakeClock(), annotate=None, termination_log=log)
    reporter.state("Ready")
    await reporter.run()
    await reporter.last_word(1)
    assert decode(log.read_text()) is not None


def test_a_pod_is_known_by_the_downward_api() -> None:
    assert own_pod({"POD_NAME": "p", "POD_NAMESPACE": "n"}) == Key("n", "p")
    assert own_pod({"POD_NAME": "p"}) is None


def test_last_words_make_no_file_in_dev(tmp_path: Path) -> None:
    assert termination_log("LOG", {"LOG": str(tmp_path / "log")}) == tmp_path / "log"
    assert termination_log("LOG", {"LOG": "/dev/no-such-file"}) == Path("/dev/null")
