"""The training child: `python -m tuner.train JOB.json`, started by tuner.launch where there are several devices.

A process of its own, so that a crash of CUDA, a hang or a kill costs the supervisor nothing but a restart.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tuner import checkpoints, model, output_volume, result, row_attention, schedule
from tuner.config import reserved
from tuner.data import prepare
from tuner.data.tokens import Encoder
from tuner.events import Emitter, Estimated, Failed, Finished, Note, Prepared, Reading, Started
from tuner.exits import ExitCode, FatalError
from tuner.heartbeat import Heartbeat
from tuner.job import Job
from tuner.memory import Sharding, fsdp_arguments
from tuner.packing_check import packed_equals_single
from tuner.room import require
from tuner.shortage import disk_full, out_of_memory

if TYPE_CHECKING:
    from tuner.callbacks import RunCallback
    from tuner.data.preview import Preview

ROW_TOKENS: Final = 4096
"""Longest row of joined samples, in tokens: without a flash kernel attention costs the square of it."""
DRY_STEPS: Final = 2
"""Steps of a dry run; the first one is slow, so the second one is taken for the estimate."""
_SHARED: Final = "samples of a micro-batch share a row, without padding"


class Run:
    """One training run in this process."""

    def __init__(self, job: Job, emit: Emitter) -> None:
        self.job = job
        self.emit = emit
        self.first = int(os.environ.get("RANK", "0")) == 0
        self.trainer: Any = None
        self.begun = False
        """Whether the steps have begun."""
        self._callback: RunCallback | None = None
        self._interrupted = False
        """SIGTERM came before there was a callback to tell."""
        self._sharded = Sharding.DDP
        self._precision = ""

    def interrupt(self, *_: object) -> None:
        """Handle SIGTERM: stop after the present step, with a checkpoint; before the first step, at once."""
        if self._callback is None:
            self._interrupted = (
                True  # an error that is raised here can be lost, in a finaliser or a library that catches all
            )
            raise FatalError(ExitCode.INTERRUPTED, "stopped before the first step")
        self._callback.interrupt()

    def execute(self) -> None:
        """Train and leave the adapter in the staging folder. Raises FatalError."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        job = self.job
        found = model.hardware()
        tokenizer = model.load_tokenizer(Path(job.model), job.recipe)
        longest = schedule.max_length(job.recipe, model.context_length(Path(job.model)))
        preview = self._prepared(found, tokenizer, longest)
        made = schedule.batch(job.recipe, found.processes, job.micro_limit)
        tokens = made.micro * preview.longest
        self._sharded = model.sharding(Path(job.model), job.recipe, found, tokens, job.sharding)
        base = model.load_base(Path(job.model), job.recipe, found, self._sharded)
        model.require_embeddings(base, preview.largest_token)
        average = preview.tokens / preview.samples
        padding_free, words = self._packing(base, found, made, average)
        train_set, held_out = self._datasets(longest, made.per_device * found.processes)
        counts = schedule.Counts(train=len(train_set), held_out=len(held_out) if held_out is not None else 0)
        self._check_patience(counts)
        arguments = schedule.arguments(job.recipe, made, found, counts, padding_free=padding_free)
        if self._sharded is Sharding.FSDP:
            arguments |= fsdp_arguments(model.decoder_layers(base), quantised=job.recipe.quantization is not None)
        self._build(base, tokenizer, arguments, train_set, held_out)
        self._check_room()
        with model.first_process_first(found):
            checkpoint = None if job.dry_run else checkpoints.latest_whole(Path(job.checkpoints), job.key)
        steps = schedule.total_steps(job.recipe, counts.train, made, found.processes)
        self._precision = schedule.precision(job.recipe, found)
        if self.first:
            self.emit(
                Started(
                    total_steps=steps,
                    resumed_from=checkpoints.step_of(checkpoint),
                    micro_batch=made.micro,
                    accumulation=made.accumulation,
                    precision=self._precision,
                    packing=words,
                    trainable_parameters=sum(p.numel() for p in self.trainer.model.parameters() if p.requires_grad),
                )
            )
        began, self.begun = time.monotonic(), True
        self._train(checkpoint)
        if self._callback is not None and self._callback.interrupted:
            _leave()
            raise FatalError(
                ExitCode.INTERRUPTED, f"stopped after step {self.trainer.state.global_step}, which is kept"
            )
        if job.dry_run:
            self._estimate(steps, preview.tokens)
            _leave()
            return
        seconds, weights = time.monotonic() - began, self._gathered()
        if self.first:
            self._save(preview, seconds, words, steps, weights)
        _leave()

    def _prepared(self, found: schedule.Hardware, tokenizer: Any, longest: int) -> Preview:
        """Read the data, and say what it is like."""
        job, beat = self.job, Heartbeat(self.emit)
        encoder = Encoder(tokenizer, max_length=longest, assistant_only=job.recipe.assistant_only)
        with model.first_process_first(found):
            preview = prepare.prepare(
                job.files,
                job.recipe.data,
                encoder,
                Path(job.prepared),
                job.room,
                moved=lambda rows: beat(Reading(rows=rows)),
            )
        if self.first:
            self.emit(Prepared(preview=preview))
        return preview

    def _check_room(self) -> None:
        """The finished adapter, and a copy of it for the registry, must fit: a training that ends in an eviction repeats it."""
        trained = sum(p.numel() * p.element_size() for p in self.trainer.model.parameters() if p.requires_grad)
        if self.job.room is not None and not self.job.dry_run:
            require(self.job.room, 2 * trained, "the finished adapter, with a copy for the registry,")

    def _check_patience(self, counts: schedule.Counts) -> None:
        recipe = self.job.recipe
        if recipe.patience is not None and counts.held_out == 0:
            raise FatalError(
                ExitCode.CONFIG_INVALID,
                "TrainingArguments.early_stopping_patience needs held-out samples: there are none with "
                f"{counts.train} samples and DatasetConfig.train_test_split {recipe.data.train_share}",
            )

    def _train(self, checkpoint: Path | None) -> None:
        from tuner.callbacks import AllStepsTakenError

        try:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except AllStepsTakenError:
            if self.trainer.args.load_best_model_at_end and self.trainer.state.best_model_checkpoint is not None:
                self.trainer._load_best_model()  # what the trainer does after its last step

    def _packing(self, base: Any, found: schedule.Hardware, made: schedule.Batch, average: float) -> tuple[bool, str]:
        """Decide how samples share a row; return whether without padding, and the words for it."""
        wanted = self.job.recipe.packing
        if wanted is False:
            return False, "padded, grouped by length"
        if not _keeps_apart(base, found):
            why = "this model does not keep packed samples apart, so they are padded and grouped by length"
            self.emit(Note(message=why))
            return False, f"padded, grouped by length: {why}"
        if wanted:
            return True, "rows are filled with samples up to max_length"
        if made.micro * average > ROW_TOKENS and not _long_rows(base):
            return False, "padded, grouped by length: samples are long and there is no flash attention kernel"
        return True, _SHARED

    def _datasets(self, longest: int, per_step: int) -> tuple[Any, Any]:
        from datasets import Dataset
        from trl import pack_dataset

        table = Dataset.from_file(str(Path(self.job.prepared) / prepare.TABLE))
        train, held = prepare.split(len(table), self.job.recipe.data)
        if self.job.dry_run:  # the first step shows the most memory, the second one the usual time
            train = prepare.longest_first(train, table["length"], per_step)
        train_set = table.select(train)
        if self.job.recipe.packing:
            if self.job.room is not None:
                require(
                    self.job.room, Path(self.job.prepared, prepare.TABLE).stat().st_size, "the table of packed rows"
                )
            train_set = pack_dataset(train_set.select_columns(["input_ids", "labels"]), longest, "bfd")
        return train_set, table.select(held) if held else None

    def _build(self, base: Any, tokenizer: Any, arguments: dict[str, Any], train_set: Any, held_out: Any) -> None:
        from transformers import EarlyStoppingCallback, PrinterCallback, set_seed
        from trl import SFTConfig, SFTTrainer

        from tuner.callbacks import RunCallback

        job = self.job
        if job.dry_run:
            arguments |= {"max_steps": DRY_STEPS, "save_strategy": "no", "eval_strategy": "no"}
            arguments |= {"train_sampling_strategy": "sequential", "load_best_model_at_end": False}
        try:
            config = SFTConfig(output_dir=job.checkpoints, **arguments)
            self._callback = RunCallback(
                self.emit,
                Path(job.checkpoints),
                job.key,
                keep=schedule.kept_checkpoints(job.recipe),
                first=self.first,
                interrupted=self._interrupted,
            )
            callbacks: list[Any] = [self._callback]
            if job.recipe.patience is not None and not job.dry_run:
                callbacks.append(EarlyStoppingCallback(job.recipe.patience, job.recipe.threshold))
            set_seed(config.seed)  # the adapter's first numbers are drawn before the trainer does this
            self.trainer = SFTTrainer(
                model=base,
                args=config,
                train_dataset=train_set,
                eval_dataset=held_out,
                processing_class=tokenizer,
                peft_config=model.lora_config(job.recipe, base),
                callbacks=callbacks,
            )
        except (TypeError, ValueError) as error:
            raise FatalError(ExitCode.CONFIG_INVALID, f"TrainingArguments do not fit together: {error}") from error
        self.trainer.remove_callback(PrinterCallback)  # the supervisor's log has a line when it is worth one
        if reserved.converted(job.recipe.lora.get("init_lora_weights")) and self.first:
            model.keep_initial(self.trainer.accelerator.unwrap_model(self.trainer.model), self._initial)

    def _estimate(self, steps: int, tokens: int) -> None:
        from tuner.callbacks import peak_memory

        assert self._callback is not None
        seconds = self._callback.last_step_seconds * steps
        self.emit(Estimated(total_steps=steps, seconds=seconds, tokens=tokens, peak_memory_bytes=peak_memory()))

    def _history(self, name: str) -> tuple[tuple[int, float], ...]:
        """What the trainer logged under a name, from before a restart too: checkpoints carry it."""
        return tuple((entry["step"], float(entry[name])) for entry in self.trainer.state.log_history if name in entry)

    @property
    def _initial(self) -> Path:
        return Path(self.job.prepared) / "initial-adapter"

    def _gathered(self) -> dict[str, Any] | None:
        """The weights from all GPUs where each holds a part; every process must take part. None where each has all."""
        if self._sharded is Sharding.DDP:
            return None
        return self.trainer.accelerator.get_state_dict(self.trainer.model)  # type: ignore[no-any-return]

    def _save(self, preview: Preview, seconds: float, packing: str, steps: int, weights: dict[str, Any] | None) -> None:
        done, recipe = self.trainer.state.global_step, self.job.recipe
        ended = ""
        if done < steps:
            ended = f"It ended after step {done} of {steps}: the loss on held-out samples did not fall in {recipe.patience} "
            ended += "evaluations. The adapter is the one with the lowest."
            self.emit(Note(message=ended))
        result.write(
            Path(self.job.staging),
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            result.Facts(
                job=self.job,
                preview=preview,
                losses=self._history("loss"),
                eval_losses=self._history("eval_loss"),
                steps=done,
                seconds=seconds,
                precision=self._precision,
                packing=packing,
                ended=ended,
            ),
            weights=weights,
            initial=self._initial if reserved.converted(recipe.lora.get("init_lora_weights")) else None,
        )
        self.emit(Finished(step=done))


def _leave() -> None:
    """Leave the process group: a process that exits inside it aborts now and then, for its threads still run."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _keeps_apart(base: Any, found: schedule.Hardware) -> bool:
    """Whether samples may share a row; on CPUs with an attention for that, if the model can use it."""
    if not found.cuda and row_attention.use(base):
        if packed_equals_single(base):
            return True
        row_attention.leave(base)
    return packed_equals_single(base)


def _long_rows(base: Any) -> bool:
    """Whether attention costs no more for a sample that shares its row."""
    used = str(getattr(base.config, "_attn_implementation", ""))
    return "flash" in used or used == row_attention.NAME


def main() -> int:
    """Run the job named on the command line; return the exit code."""
    faulthandler.enable()  # the supervisor sends SIGABRT to a child that hangs: the log then says where
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel that could only come from a hub
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    emit = Emitter(job.events, first=int(os.environ.get("RANK", "0")) == 0)
    run = Run(job, emit)
    signal.signal(signal.SIGTERM, run.interrupt)
    try:
        run.execute()
    except FatalError as error:
        emit(Failed(code=int(error.code), message=str(error)))
        return int(error.code)
    except Exception as error:
        refused = output_volume.refusal(error, Path(job.checkpoints))
        if refused is not None:
            emit(Failed(code=int(refused.code), message=str(refused), reason=refused.reason))
            return int(refused.code)
        if disk_full(error):
            where = getattr(error, "filename", None) or f"a checkpoint in {job.checkpoints}"
            message = f"no space left for {where}; give the output volume more ({error})"[:1000]
            emit(Failed(code=int(ExitCode.DISK_FULL), message=message))
            return int(ExitCode.DISK_FULL)
        if not out_of_memory(error):
            emit(Failed(code=int(ExitCode.TRAINING_FAILED), message=f"{type(error).__name__}: {error}"[:1000]))
            raise
        message = f"{type(error).__name__}: {error}"[:1000]
        emit(Failed(code=int(ExitCode.OUT_OF_MEMORY), message=message, before_steps=not run.begun))
        return int(ExitCode.OUT_OF_MEMORY)
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
