"""The process that kubelet starts: brings the data, runs the training child, reports, and knows what to do when it dies.

Imports nothing heavy: while the child fills the memory, this process stays small and alive.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from kaito_api.report import Progress, TuningReport
from kubecore.termination import termination_log
from tuner import checkpoints, child, cluster, job, options, output_volume, result, schedule, sources
from tuner.config.document import ROOT
from tuner.config.recipe import Recipe, parse
from tuner.data.fetch import Fetched
from tuner.events import Estimated, Evaluated, Event, Note, Prepared, Reading, Saved, Started, Stepped
from tuner.exits import REASONS, ExitCode, FatalError
from tuner.figures import Figures
from tuner.keeper import OTHER, Keeper, keeper
from tuner.metrics import serving
from tuner.options import Options
from tuner.reporter import Reporter
from tuner.verdict import Again, verdict

LAST_WORD_SECONDS: Final = 5.0
_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Supervisor:
    """One tuning, from an empty folder to a finished one."""

    def __init__(
        self,
        settings: Options,
        reporter: Reporter,
        *,
        keeper: Keeper | None = None,
        launch: Callable[[int, Path], list[str]] = child.command,
    ) -> None:
        self._settings = settings
        self._reporter = reporter
        self._keeper = keeper
        self._launch = launch
        self._stop = asyncio.Event()
        self._micro_limit: int | None = None
        self._data = ""
        self.figures = Figures()

    def stop(self) -> None:
        """Handle SIGTERM."""
        self._stop.set()
        if self._keeper is not None:
            self._keeper.hurry(self._settings.grace_seconds)

    async def execute(self) -> None:
        """Do what is left to do. Raises FatalError."""
        settings = self._settings
        recipe = await asyncio.to_thread(read_recipe, settings.config, settings.method)
        for note in recipe.notes:
            _logger.info("configuration", extra={"detail": note})
        request = await asyncio.to_thread(job.request_key, recipe, settings.model, settings.run)
        if request and await self._finished(request=request):
            return
        files = await self._unless_stopped(self._fetch(recipe))
        self._reporter.state("Checking", message="reading the data")
        run = await asyncio.to_thread(job.run_key, recipe, settings.model, files)
        key = job.result_key(settings.owner, run)
        if await self._finished(key=key, request=request):
            return
        if not settings.dry_run:
            for folder in (settings.output, settings.checkpoints):
                await asyncio.to_thread(output_volume.require_writable, folder)
        work = settings.work / run[:16]
        await self._train_and_keep(
            job.Job(
                recipe=recipe,
                model=str(settings.model),
                base_model=settings.base_model,
                files=files,
                prepared=str(work / "prepared"),
                checkpoints=str(settings.checkpoints),
                staging=str(work / "staging"),
                key=run,
                micro_limit=await asyncio.to_thread(checkpoints.read_limit, settings.checkpoints, run),
                dry_run=settings.dry_run,
                sharding=settings.sharding,
                room=settings.room,
            ),
            key,
        )
        if settings.dry_run:
            return
        self._reporter.state("Saving", message=self.figures.remark)
        await asyncio.to_thread(_publish, work / "staging", settings.output, key, request)
        await asyncio.to_thread(checkpoints.prune, settings.checkpoints)
        if self._keeper is not None:
            self.figures.keep(await self._keeper.keep_result(key, request))
            self._reporter.progress(tuning=self.figures.report())
        self._reporter.state("Done", message=f"the adapter is in {settings.output}")

    async def _finished(self, *, key: str = "", request: str = "") -> bool:
        """Whether an earlier pod made the adapter: in the output folder, or in the registry, from where it is brought then."""
        if await asyncio.to_thread(result.finished, self._settings.output, key=key, request=request) is not None:
            self._reporter.state("Done", message="the output folder was finished before; nothing is repeated")
            return True
        keeper = self._keeper
        if keeper is None or not await self._unless_stopped(keeper.bring_result(key=key, request=request)):
            return False
        self._reporter.state("Done", message="an earlier pod finished the adapter; the registry had kept it")
        return True

    async def _fetch(self, recipe: Recipe) -> tuple[Fetched, ...]:
        self._reporter.state("Fetching", message="bringing the data")

        def moved(done: int, total: int) -> None:
            self._reporter.progress(Progress(phase="data", done=done, total=total, unit="bytes"))

        return await sources.fetch(self._settings, recipe.data.file, moved)

    async def _train_and_keep(self, plan: job.Job, key: str) -> None:
        """Train for the result `key`, and meanwhile send every checkpoint to the registry where there is one for them."""
        keeper = self._keeper
        self.figures.remark = await asyncio.to_thread(_left_by_others, plan, key, self._settings.output)
        if keeper is None or plan.dry_run:
            await self._train(plan)
            return
        brought = await self._unless_stopped(keeper.bring_checkpoint(plan.key))
        self.figures.remark = ". ".join(filter(None, (self.figures.remark, brought.remark)))
        if brought.micro_limit is not None:
            plan = msgspec.structs.replace(plan, micro_limit=brought.micro_limit)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(keeper.send_checkpoints())
            try:
                await self._train(plan)
            except FatalError:
                await keeper.settle()
                raise
            finally:
                sending.cancel()

    async def _train(self, plan: job.Job) -> None:
        settings = self._settings
        limits = child.Deadlines(settings.load_seconds, settings.hang_seconds, settings.grace_seconds)
        fruitless = 0
        while True:
            reached = self.figures.saved
            launch = partial(self._launch, settings.processes)
            self._micro_limit = plan.micro_limit
            end = await child.run(plan, launch, self._heard, self._stop, limits, processes=settings.processes)
            child.reap_orphans()
            fruitless = 1 if self.figures.saved > reached else fruitless + 1
            batch = schedule.batch(plan.recipe, settings.processes, plan.micro_limit)
            outcome = verdict(end, batch, stopping=self._stop.is_set(), left=settings.restarts + 1 - fruitless)
            if outcome is None:
                return
            if isinstance(outcome, FatalError):
                raise outcome
            self._reporter.message(outcome.message)
            plan = self._next(plan, outcome)

    def _next(self, plan: job.Job, outcome: Again) -> job.Job:
        if outcome.micro_limit is None:
            return plan
        checkpoints.write_limit(self._settings.checkpoints, plan.key, outcome.micro_limit)
        self.figures.remark = outcome.message
        return msgspec.structs.replace(plan, micro_limit=outcome.micro_limit)

    def _heard(self, event: Event) -> None:
        """Fold what the child says into the report."""
        self.figures.take(event)
        if self._keeper is not None and isinstance(event, Saved):
            self._keeper.offer(event.step, self._micro_limit)
        match event:
            case Reading(rows=rows):
                self._reporter.progress(Progress(phase="data", done=rows, unit="rows"))
            case Prepared(preview=preview):
                for number, text in enumerate(preview.examples, 1):
                    _logger.info("sample", extra={"number": number, "text": text})
                _logger.info("data", extra={"preview": msgspec.structs.replace(preview, examples=())})
                self._reporter.message(preview.told())
                self._data = preview.summary()
            case Started():
                self._reporter.state("Training", message=f"{self.figures.words()} Data: {self._data}")
                self._progress()
            case Stepped() | Evaluated() | Saved():
                self._progress()
            case Note(message=message):
                self._reporter.message(message)
            case Estimated():
                self._reporter.state("Done", message=self.figures.estimate(event))
            case _:
                return

    def _progress(self) -> None:
        tuning: TuningReport = self.figures.report()
        self._reporter.progress(
            Progress(phase="training", done=tuning.step, total=tuning.total_steps, unit="steps"), tuning
        )
        if self.figures.worth_a_line():
            _logger.info("progress", extra={"tuning": tuning})

    async def _unless_stopped(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work`, or give it up on SIGTERM. Raises FatalError(INTERRUPTED)."""
        async with asyncio.TaskGroup() as group:
            working, stopping = group.create_task(work), group.create_task(self._stop.wait())
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not working.done():
                working.cancel()
                raise FatalError(ExitCode.INTERRUPTED, "stopped before the training began")
        return working.result()


def read_recipe(path: Path | None, method: str) -> Recipe:
    """Read and judge the configuration. Raises FatalError(CONFIG_INVALID) with every problem in it."""
    text = ""
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FatalError(ExitCode.CONFIG_INVALID, f"{path} cannot be read: {error}") from error
    found = parse(text, method)
    if isinstance(found, Recipe):
        return found
    words = "; ".join(str(problem).removeprefix(f"{ROOT}.") for problem in found)
    raise FatalError(ExitCode.CONFIG_INVALID, f"training_config.yaml: {words}")


async def supervise(settings: Options) -> int:
    """Run to the end; return the exit code."""
    async with cluster.connected(settings.workspace) as pod, asyncio.TaskGroup() as group:
        log = termination_log(options.PREFIX + "TERMINATION_LOG")
        reporter = Reporter(pod.annotate if pod is not None else None, log)
        supervisor = Supervisor(settings, reporter, keeper=keeper(settings, pod))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.stop)
        writing = group.create_task(reporter.run())
        code = ExitCode.OK
        try:
            async with serving(settings.metrics_port, supervisor.figures):
                await supervisor.execute()
        except* FatalError as failures:
            error = innermost(failures)
            assert isinstance(error, FatalError)
            code = error.code
            state = reporter.report.state if code is ExitCode.INTERRUPTED else "Failed"
            reporter.state(state, reason=error.reason, message=str(error))
        except* Exception as failures:  # a fault of ours: the Workspace hears of it, the log has the traceback
            code = ExitCode.TRAINING_FAILED
            _logger.exception("internal error")
            words = f"internal error: {type(innermost(failures)).__name__}: {innermost(failures)}"
            reporter.state("Failed", reason=REASONS[code], message=words)
        finally:
            writing.cancel()
        await reporter.last_word(LAST_WORD_SECONDS)
    return int(code)


def innermost(failures: BaseException) -> BaseException:
    """The first error inside a group, however deep."""
    found = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _left_by_others(plan: job.Job, key: str, output: Path) -> str:
    """What lies here of other tunings and is not used, in words; "" where there is nothing."""
    if plan.dry_run:
        return ""
    found = []
    step = checkpoints.of_another_run(Path(plan.checkpoints), plan.key)
    if step:
        found.append(f"The checkpoint of step {step} in {plan.checkpoints} {OTHER}")
    if result.of_another(output, key):
        found.append(f"The finished adapter in {output} {OTHER}")
    return ". ".join(found)


def _publish(staging: Path, output: Path, key: str, request: str) -> None:
    """Move the adapter to the output. Raises FatalError where that takes no more."""
    try:
        result.publish(staging, output, key, request)
    except OSError as error:
        cause = output_volume.failure(output, error)
        if cause is None:
            raise
        raise cause from error
