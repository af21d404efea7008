"""How much a folder may hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tuner import room
from tuner.exits import ExitCode, FatalError
from tuner.room import RESERVE, Room


def test_every_file_is_counted_by_what_it_takes_or_will_take(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").write_bytes(b"x" * 100_000)
    (tmp_path / "two").write_bytes(b"x" * 50_000)
    (tmp_path / "elsewhere").symlink_to("/dev/full")
    assert 150_000 <= room.used(tmp_path) <= 150_000 + 3 * 65_536


def test_what_is_left_is_the_smaller_of_disk_and_limit(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    disk = shutil.disk_usage(tmp_path).free
    assert room.left(Room(folder=str(tmp_path))) > RESERVE
    assert room.left(Room(folder=str(tmp_path), limit=disk * 2)) <= disk
    assert room.left(Room(folder=str(tmp_path), limit=RESERVE + 300_000)) == 300_000 - room.used(tmp_path)


@pytest.mark.parametrize(
    ("limit", "needed", "advice"),
    [
        (
            RESERVE + 1000,
            1001,
            r"only 1000 are free in .*; it may hold .* \(--work-bytes\): .*settings.tuning.scratchGib",
        ),
        (0, 1 << 60, "give the data volume more"),
        (1 << 61, 1 << 60, "give the data volume more"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_change(tmp_path: Path, limit: int, needed: int, advice: str) -> None:
    found = Room(folder=str(tmp_path), limit=limit)
    room.require(found, 1000, "the table")
    with pytest.raises(FatalError, match=f"the table needs {needed} bytes, but .*{advice}") as caught:
        room.require(found, needed, "the table")
    assert caught.value.code is ExitCode.DISK_FULL
