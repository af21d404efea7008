"""Where the training stands, folded from the child's events."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from kaito_api.report import TuningReport
from tuner.events import Estimated, Evaluated, Event, Saved, Started, Stepped

LINE_SECONDS: Final = 15.0
_SMOOTHING: Final = 0.1


class Figures:
    """The newest numbers. `remark` is said with the state."""

    def __init__(self) -> None:
        self._tuning = TuningReport()
        self._seconds_a_step = 0.0
        self._last = time.monotonic()
        self._line = 0.0
        self._started: Started | None = None
        self.saved = -1
        """Step of the newest checkpoint, -1 for none."""
        self.remark = ""

    def take(self, event: Event) -> None:
        """Fold one event in."""
        now = time.monotonic()
        change = msgspec.structs.replace
        match event:
            case Started():
                self._started, self._last, self._seconds_a_step = event, now, 0.0
                self._tuning = change(self._tuning, total_steps=event.total_steps, step=event.resumed_from)
            case Stepped():
                took, self._last = now - self._last, now
                old = self._seconds_a_step
                self._seconds_a_step = took if not old else (1 - _SMOOTHING) * old + _SMOOTHING * took
                left = max(0, self._tuning.total_steps - event.step)
                self._tuning = change(
                    self._tuning,
                    step=event.step,
                    epoch=round(event.epoch, 4),
                    loss=event.loss,
                    tokens_per_second=round(event.tokens_per_second, 1),
                    eta_seconds=int(left * self._seconds_a_step),
                    peak_memory_bytes=event.peak_memory_bytes,
                )
            case Evaluated():
                self._last = now
                self._tuning = change(self._tuning, eval_loss=event.loss)
            case Saved():
                self._last, self.saved = now, event.step
                self._tuning = change(self._tuning, checkpoint=f"checkpoint-{event.step}")
            case _:
                return

    def keep(self, image: str) -> None:
        """Note where the finished adapter is kept, if it is."""
        if image:
            self._tuning = msgspec.structs.replace(self._tuning, checkpoint=image)

    def report(self) -> TuningReport:
        """The numbers for the pod's report."""
        return self._tuning

    def words(self) -> str:
        """The run in a sentence."""
        began = self._started
        if began is None:
            return ""
        start = f"goes on after step {began.resumed_from}" if began.resumed_from else "starts"
        batch = f"{began.micro_batch} x {began.accumulation} samples a step on each device"
        trained = f"{began.trainable_parameters} trained numbers, computed in {began.precision}"
        words = f"{start}, {began.total_steps} steps, {batch}, {trained}; {began.packing}"
        return f"{words}. {self.remark}." if self.remark else f"{words}."

    def estimate(self, event: Estimated) -> str:
        """A dry run's result in a sentence."""
        return (
            f"dry run: {event.total_steps} steps would take about {event.seconds / 60:.1f} minutes "
            f"({event.tokens} tokens an epoch, {event.peak_memory_bytes / 2**30:.2f} GiB at most); nothing was kept"
        )

    def worth_a_line(self) -> bool:
        """Whether the log shall have a line again."""
        now = time.monotonic()
        if now - self._line < LINE_SECONDS and self._tuning.step < self._tuning.total_steps:
            return False
        self._line = now
        return True
