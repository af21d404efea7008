"""Threads of a training process."""

from __future__ import annotations

import pytest

from tuner.threads import shared


@pytest.mark.parametrize(
    ("cores", "limit", "processes", "threads"),
    [
        (64, 4.0, 1, 4),
        (64, 1.5, 1, 2),
        (64, 0.5, 1, 1),
        (2, 8.0, 1, 2),
        (2, None, 1, 2),
        (16, 8.0, 2, 4),
        (2, None, 4, 1),
    ],
)
def test_threads_follow_the_limit(cores: int, limit: float | None, processes: int, threads: int) -> None:
    assert shared(cores, limit, processes) == threads
