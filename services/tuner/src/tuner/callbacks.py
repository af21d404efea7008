"""What happens between the trainer's steps: report, seal checkpoints, stop on SIGTERM and on a loss that is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tuner import checkpoints, overflow
from tuner.events import Emitter, Evaluated, Evaluating, Note, Saved, Stepped
from tuner.exits import ExitCode, FatalError
from tuner.heartbeat import Heartbeat


class AllStepsTakenError(Exception):
    """The checkpoint that was loaded is the one after the last step: nothing is left but to save the adapter."""


def out_of_patience(stateful: Mapping[str, Any]) -> bool:
    """Whether the early stop had come when the states of these callbacks were kept, as trainer_state.json has them. Pure."""
    kept = stateful.get("EarlyStoppingCallback")
    if not isinstance(kept, dict):
        return False
    patience = kept.get("args", {}).get("early_stopping_patience", math.inf)
    return bool(kept.get("attributes", {}).get("early_stopping_patience_counter", 0) >= patience)


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """One per process; only the first process speaks and seals."""

    def __init__(
        self, emit: Emitter, folder: Path, key: str, *, first: bool, keep: int = 0, interrupted: bool = False
    ) -> None:
        """`keep` is the number of checkpoints that stay (checkpoints.rotate); `interrupted`: SIGTERM has come already."""
        self._emit = emit
        self._beat = Heartbeat(emit)
        self._folder = folder
        self._key = key
        self._keep = keep
        self._first = first
        self._clock = time.monotonic()
        self._tokens = 0.0
        self._speed = 0.0
        self._skipped = 0
        self.last_step_seconds = 0.0
        self.interrupted = interrupted

    def interrupt(self) -> None:
        """Ask for a checkpoint and the end after the present step."""
        self.interrupted = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raise AllStepsTakenError where no step is left; the trainer looks only after a step, and would take one too many."""
        if state.global_step >= state.max_steps or out_of_patience(state.stateful_callbacks):
            raise AllStepsTakenError

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks."""
        if not self._tokens:
            self._clock = time.monotonic()
        self.last_step_seconds = -time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Obey SIGTERM."""
        self.last_step_seconds += time.monotonic()
        if self._agreed():
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Report a step; raises FatalError when loss or gradient are no numbers."""
        if logs is None or "loss" not in logs:
            return
        loss = float(logs["loss"])
        gradient = float(logs.get("grad_norm") or 0.0)
        self._skipped = overflow.skipped(self._skipped, gradient, scaled=bool(args.fp16))
        if overflow.broken(loss, gradient, self._skipped):
            raise FatalError(
                ExitCode.TRAINING_FAILED,
                f"the loss became {loss} (gradient {gradient}{overflow.words(self._skipped)}) at step {state.global_step}: "
                f"lower the learning rate (it is {args.learning_rate}), or look for damaged samples; the last checkpoint is "
                "from before",
            )
        self._measure(float(logs.get("num_tokens") or 0.0))
        if self._first:
            self._emit(
                Stepped(
                    step=state.global_step,
                    epoch=float(state.epoch or 0.0),
                    loss=loss,
                    learning_rate=float(logs.get("learning_rate") or 0.0),
                    tokens_per_second=self._speed,
                    peak_memory_bytes=peak_memory(),
                )
            )

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that the evaluation goes on: it can take longer than a step may."""
        if self._first:
            self._beat(Evaluating(step=state.global_step))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        """Report the loss on the held-out samples."""
        if self._first and metrics is not None and "eval_loss" in metrics:
            loss = float(metrics["eval_loss"])
            if math.isfinite(loss):
                self._emit(Evaluated(step=state.global_step, loss=loss))
            else:
                words = f"the loss on held-out samples is {loss} after step {state.global_step}"
                self._emit(Note(message=f"{words}: it counts as none; look for damaged or very unusual samples"))
        self._clock = time.monotonic()  # an evaluation is not counted as training time

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal the checkpoint that was just written; only then may older ones go."""
        if self._first:
            checkpoints.seal(self._folder, state.global_step, self._key)
            best = state.best_model_checkpoint
            checkpoints.rotate(self._folder, state.global_step, self._keep, Path(best) if best is not None else None)
            self._emit(Saved(step=state.global_step))

    def _agreed(self) -> bool:
        """Whether any process was told to stop: the signal reaches them in different steps, and they must stop in the same."""
        import torch
        from torch import distributed

        if distributed.is_initialized() and distributed.get_world_size() > 1:
            device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            flag = torch.tensor(int(self.interrupted), device=device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            self.interrupted = bool(flag.item())
        return self.interrupted

    def _measure(self, tokens: float) -> None:
        now = time.monotonic()
        took, self._clock = now - self._clock, now
        grown, self._tokens = tokens - self._tokens, tokens
        if took > 0 and grown > 0:
            fresh = grown / took
            self._speed = fresh if not self._speed else 0.9 * self._speed + 0.1 * fresh


def peak_memory() -> int:
    """Most bytes in use so far: of the GPU where there is one, else of the process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
