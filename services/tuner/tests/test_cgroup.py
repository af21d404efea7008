from __future__ import annotations

from pathlib import Path

import pytest

from tuner import cgroup


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_cpu_limit_is_read_from_both_kinds_of_cgroups(
    tmp_path: Path, files: dict[str, str], expected: float | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cgroup.cpu_limit(tmp_path) == expected


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
    assert cgroup.shared(cores, limit, processes) == threads


@pytest.mark.parametrize("name", ["memory.events", "memory/memory.oom_control"])
def test_kills_are_counted(tmp_path: Path, name: str) -> None:
    assert cgroup.oom_kills(tmp_path) == 0
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("low 0\noom_kill 3\n")
    assert cgroup.oom_kills(tmp_path) == 3
