"""When a loss or a gradient that is no number ends the training. Pure.

In float16 a gradient that overflows is a part of the method: torch.amp.GradScaler multiplies the loss so that small gradients
are not lost, and where that was too much it leaves the step out and halves the factor.
"""

from __future__ import annotations

import math
from typing import Final

MOST_SKIPPED: Final = 16
"""Steps in a row that may be left out. The factor begins at 2^16, so after 16 halvings it is 1 and no cause any more; later in a
run it lies a factor of 2 at most above one that worked, so 16 halvings are gradients that grew 2^15 times."""


def skipped(before: int, gradient: float, *, scaled: bool) -> int:
    """Return how many steps in a row the scaler has left out, after one with this gradient norm; without a scaler none."""
    return before + 1 if scaled and not math.isfinite(gradient) else 0


def broken(loss: float, gradient: float, skipped_now: int) -> bool:
    """Whether the training cannot be saved: the loss is no number, or the gradient is none and no scaler mends it."""
    if not math.isfinite(loss):
        return True
    return not math.isfinite(gradient) and (skipped_now == 0 or skipped_now > MOST_SKIPPED)


def words(skipped_now: int) -> str:
    """What to say of steps left out, "" for none."""
    return f", {skipped_now} steps in a row left out: float16 has no room for it" if skipped_now else ""
