"""The kernel's files of a container, in both kinds of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubecore import cgroup

V2 = {"memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 3\noom_group_kill 0\n"}
V1 = {"memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content + "\n")


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
def test_the_cpu_limit(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    write(tmp_path, files)
    assert cgroup.cpu_limit(tmp_path) == expected


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_kills_are_counted(tmp_path: Path, files: dict[str, str]) -> None:
    assert cgroup.oom_kills(tmp_path) is None
    write(tmp_path, files)
    assert cgroup.oom_kills(tmp_path) == 3
    assert cgroup.oom_kills_since(1, tmp_path) == 2


def test_an_increase_needs_both_counts(tmp_path: Path) -> None:
    assert cgroup.oom_kills_since(1, tmp_path) is None
    write(tmp_path, V2)
    assert cgroup.oom_kills_since(None, tmp_path) is None
