"""A training that the kernel kills for memory before its first step: halving the micro-batch would only repeat it."""

from __future__ import annotations

import pytest

from tuner.child import End
from tuner.events import Failed
from tuner.exits import ExitCode, FatalError
from tuner.schedule import Batch
from tuner.verdict import Again, verdict


def test_no_micro_batch_helps_before_the_first_step() -> None:
    killed = End(status=-9, killed_for_memory=True, before_steps=True)
    found = verdict(killed, Batch(8, 1), stopping=False, left=3)
    assert isinstance(found, FatalError)
    assert (found.code, found.reason) == (ExitCode.OUT_OF_MEMORY, "ContainerOOMKilled")
    assert "before the first step" in str(found)


@pytest.mark.parametrize(
    "end",
    [
        End(status=-9, killed_for_memory=True),
        End(status=71, failure=Failed(code=71, message="oom"), killed_for_memory=True, before_steps=False),
    ],
)
def test_later_half_as_many_samples_do(end: End) -> None:
    found = verdict(end, Batch(8, 1), stopping=False, left=3)
    assert isinstance(found, Again)
    assert found.micro_limit == 4


def test_a_reason_that_the_child_gives_is_kept() -> None:
    failure = Failed(code=74, message="read-only", reason="OutputUnwritable")
    found = verdict(End(status=74, failure=failure), Batch(8, 1), stopping=False, left=3)
    assert isinstance(found, FatalError)
    assert (found.code, found.reason) == (ExitCode.DISK_FULL, "OutputUnwritable")
