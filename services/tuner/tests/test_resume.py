"""What a resumed training goes by: steps and not clocks, an early stop that had come, a SIGTERM that was swallowed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kaito_local.demo_model.artifact import trained_model
from tuner import checkpoints
from tuner.config.recipe import DatasetSettings, Recipe, parse
from tuner.data.fetch import Fetched
from tuner.data.prepare import split
from tuner.events import Emitter, Evaluating, Event, Reading, Saved, Stepped
from tuner.exits import ExitCode, FatalError
from tuner.job import Job
from tuner.train import Run

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]


class Heard(Emitter):
    """What the child says, kept instead of sent."""

    def __init__(self) -> None:
        super().__init__("")
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder() -> Path:
    return await trained_model()


def job(folder: Path, tmp_path: Path, arguments: str) -> Job:
    recipe = parse(f"training_config: {{TrainingArguments: {{learning_rate: 1e-3, {arguments}}}}}", "lora")
    assert isinstance(recipe, Recipe)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "What is {n}?", "completion": "Number {n}."}}\n' for n in range(24)))
    return Job(
        recipe=recipe,
        model=str(folder),
        base_model="tiny",
        files=(Fetched(path=str(rows), shown="rows", size=1, sha256="0" * 64),),
        prepared=str(tmp_path / "prepared"),
        checkpoints=str(tmp_path / "checkpoints"),
        staging=str(tmp_path / "staging"),
        key="k",
    )


def executed(made: Job) -> tuple[Run, list[Event]]:
    heard = Heard()
    run = Run(made, heard)
    run.execute()
    return run, heard.events


def steps_of(events: list[Event], kind: Any) -> list[int]:
    return [event.step for event in events if isinstance(event, kind)]


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.parent.name for path in (tmp_path / "checkpoints").glob(f"*/{checkpoints.MANIFEST}"))


def test_the_newest_checkpoint_stays_though_the_clock_went_back(folder: Path, tmp_path: Path) -> None:
    """The node before had a clock that was ahead: what it wrote is dated after all that comes now."""
    _, before = executed(job(folder, tmp_path, "max_steps: 2, save_steps: 1"))
    assert kept(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    ahead = time.time() + 7200
    for path in (tmp_path / "checkpoints").iterdir():
        os.utime(path, (ahead, ahead))
    steps = job(folder, tmp_path, "max_steps: 4, save_steps: 1")
    _, events = executed(steps)
    assert steps_of(events, Stepped) == [3, 4]
    assert steps_of(events, Saved) == [3, 4]
    assert kept(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    assert steps_of(before, Evaluating) == [1], "a long evaluation would be taken for a hang"
    assert [event for event in before if isinstance(event, Reading)] == [Reading(rows=1)], "and so would much data"


def test_an_early_stop_that_had_come_is_not_trained_past(folder: Path, tmp_path: Path) -> None:
    """A pod that dies between its last checkpoint and the adapter: the next one has nothing to train."""
    patient = "max_steps: 8, save_steps: 1, eval_steps: 1, early_stopping_patience: 1, early_stopping_threshold: 100"
    made = job(folder, tmp_path, patient)
    run, _ = executed(made)
    ended, best = run.trainer.state.global_step, run.trainer.state.best_model_checkpoint
    assert ended < 8
    run, events = executed(made)
    assert (run.trainer.state.global_step, run.trainer.state.best_model_checkpoint) == (ended, best)
    assert not steps_of(events, Stepped)


def test_a_sigterm_whose_error_was_swallowed_still_ends_the_training(folder: Path, tmp_path: Path) -> None:
    """Python drops what a signal handler raises inside a finaliser, and libraries catch what they do not expect."""
    run = Run(job(folder, tmp_path, "max_steps: 3"), Emitter(""))
    with contextlib.suppress(FatalError):
        run.interrupt()
    with pytest.raises(FatalError, match="stopped after step 1, which is kept") as caught:
        run.execute()
    assert caught.value.code is ExitCode.INTERRUPTED
    assert kept(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize(("count", "share"), [(20, 0.02), (40, 0.001), (1000, 0.0001)])
def test_something_is_left_to_train_on(count: int, share: float) -> None:
    train, held = split(count, DatasetSettings(train_share=share))
    assert (len(train), len(held)) == (max(1, count - 1000), min(1000, count - 1))
