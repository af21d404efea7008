"""What the end of a child means: finished, again, or the end of the tuning. Pure."""

from __future__ import annotations

from signal import Signals

import msgspec

from kaito_api.conditions import Reason
from tuner.child import End
from tuner.exits import ExitCode, FatalError
from tuner.schedule import Batch, smaller


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Start the child once more, from the last whole checkpoint."""

    message: str
    micro_limit: int | None = None
    """Samples at a time from now on; None for as before."""


def verdict(end: End, batch: Batch, *, stopping: bool, left: int) -> Again | FatalError | None:
    """Return None when the training is finished. `left` is how many more restarts without progress are allowed."""
    if end.status == 0 and end.failure is None and not end.hung:
        return None
    if stopping:
        return FatalError(ExitCode.INTERRUPTED, "stopped by SIGTERM; a new pod goes on from the last checkpoint")
    said = ExitCode(end.failure.code) if end.failure is not None else None
    early = _no_memory_for_a_step(end)
    if early is not None:
        return early
    if said is ExitCode.OUT_OF_MEMORY or end.killed_for_memory:
        return _out_of_memory(batch, killed=end.killed_for_memory)
    if end.failure is not None and said is not ExitCode.INTERRUPTED:
        return FatalError(ExitCode(end.failure.code), end.failure.message, end.failure.reason)
    if end.hung:
        what = "the training was silent for too long and was killed; its log says where it stood"
        return (
            Again(message=f"{what}; it goes on from the last checkpoint")
            if left > 0
            else FatalError(ExitCode.TRAINING_HUNG, f"{what}, again after restarts")
        )
    how = f"by {Signals(-end.status).name}" if end.status < 0 else f"with status {end.status}"
    if left > 0:
        return Again(message=f"the training ended {how} and goes on from the last checkpoint")
    return FatalError(
        ExitCode.TRAINING_FAILED, f"the training ended {how}, again and again without a step forward; see the pod's log"
    )


def _no_memory_for_a_step(end: End) -> FatalError | None:
    """Memory ran out before the first step, where no size of the micro-batch helps."""
    if end.failure is None and end.killed_for_memory and end.before_steps:
        return FatalError(
            ExitCode.OUT_OF_MEMORY,
            "the kernel killed the training for lack of memory before the first step, with base model, adapter and data alone: "
            "give the tuner more memory, or take a larger instance type",
            Reason.CONTAINER_OOM_KILLED,
        )
    if end.failure is None or end.failure.code != ExitCode.OUT_OF_MEMORY or not end.failure.before_steps:
        return None
    return FatalError(
        ExitCode.OUT_OF_MEMORY,
        f"memory runs out before the first step, with base model, adapter and data alone ({end.failure.message}): "
        "use method qlora, a lower LoraConfig.r, or a larger instance type",
    )


def _out_of_memory(batch: Batch, *, killed: bool) -> Again | FatalError:
    limit = smaller(batch)
    if limit is None and killed:
        return FatalError(
            ExitCode.OUT_OF_MEMORY,
            "the kernel killed the training for lack of memory, with one sample at a time: give the tuner more memory, lower "
            "max_length, or take a larger instance type",
            Reason.CONTAINER_OOM_KILLED,
        )
    if limit is None:
        return FatalError(
            ExitCode.OUT_OF_MEMORY,
            "memory runs out with one sample at a time: lower max_length, use method qlora, or take a larger instance type",
        )
    return Again(
        message=f"memory ran out with {batch.micro} samples at a time; it goes on with at most {limit}, and the same "
        f"{batch.per_device} samples a step",
        micro_limit=limit,
    )
