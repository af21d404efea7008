"""Gradients that are no numbers: what float16's scaler mends, and what ends the training."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuner import overflow
from tuner.events import Emitter
from tuner.exits import ExitCode, FatalError

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("before", "gradient", "scaled", "after"),
    [
        (0, 1.0, True, 0),
        (5, 1.0, True, 0),
        (5, INF, True, 6),
        (5, NAN, True, 6),
        (0, INF, False, 0),
    ],
)
def test_steps_left_out_are_counted_in_a_row(before: int, gradient: float, scaled: bool, after: int) -> None:
    assert overflow.skipped(before, gradient, scaled=scaled) == after


@pytest.mark.parametrize(
    ("loss", "gradient", "skipped", "broken"),
    [
        (1.0, 1.0, 0, False),
        (NAN, 1.0, 0, True),
        (INF, INF, 3, True),
        (1.0, INF, 0, True),
        (1.0, NAN, 0, True),
        (1.0, INF, 1, False),
        (1.0, NAN, 16, False),
        (1.0, INF, 17, True),
    ],
)
def test_what_ends_the_training(loss: float, gradient: float, skipped: int, broken: bool) -> None:
    assert overflow.broken(loss, gradient, skipped) is broken


def train(slope: float, folder: Path, *, steps: int) -> tuple[int, float]:
    """Train with torch's own scaler and our callback; return the steps that were taken, and the scaler's last factor."""
    import torch

    from tuner.callbacks import RunCallback

    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu")
    callback = RunCallback(Emitter(""), folder, "k", first=False)
    arguments = SimpleNamespace(fp16=True, learning_rate=0.0)
    taken = 0
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        # The slope of a root is infinite at 0, its value is not.
        loss = (weight.sqrt() if math.isinf(slope) else weight * slope).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.linalg.vector_norm(weight.grad, INF).item()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        taken += scaler.get_scale() >= before
        callback.on_log(
            arguments, SimpleNamespace(global_step=step, epoch=0.0), None, {"loss": loss.item(), "grad_norm": norm}
        )
    return taken, scaler.get_scale()


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize(
    ("slope", "taken", "scale"),
    [
        (1e30, 20, 2.0**16),
        (1e37, 20 - 11, 2.0**5),  # scaled by 2^16, and by ten halvings of it, that is more than a float32 holds
    ],
)
def test_steps_that_the_scaler_leaves_out_end_nothing(tmp_path: Path, slope: float, taken: int, scale: float) -> None:
    assert train(slope, tmp_path, steps=20) == (taken, scale)


@pytest.mark.engine
@pytest.mark.slow
def test_gradients_that_no_factor_mends_end_it(tmp_path: Path) -> None:
    assert train(INF, tmp_path, steps=overflow.MOST_SKIPPED) == (0, 1.0), "the factor was never 1"
    with pytest.raises(FatalError, match=r"gradient inf, 17 steps in a row left out.* at step 17: lower") as caught:
        train(INF, tmp_path, steps=20)
    assert caught.value.code is ExitCode.TRAINING_FAILED
