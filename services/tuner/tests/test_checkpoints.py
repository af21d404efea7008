from __future__ import annotations

from pathlib import Path

import pytest

from tuner import checkpoints, folder_manifest
from tuner.checkpoints import MANIFEST


def checkpoint(folder: Path, step: int, *, key: str = "k", sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "sub").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"o" * step)
    (path / "sub" / "state.json").write_text(str(step))
    if sealed:
        checkpoints.seal(folder, step, key)
    return path


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_whole_one_is_taken_and_incomplete_ones_go(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 15, sealed=False)
    assert checkpoints.latest_whole(tmp_path, "k") == tmp_path / "checkpoint-10"
    assert left(tmp_path) == ["checkpoint-10", "checkpoint-5"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "changed", "manifest"])
def test_a_damaged_one_is_never_used(tmp_path: Path, damage: str) -> None:
    checkpoint(tmp_path, 5)
    broken = checkpoint(tmp_path, 10)
    match damage:
        case "truncated":
            (broken / "optimizer.pt").write_bytes(b"o")
        case "missing":
            (broken / "sub" / "state.json").unlink()
        case "changed":
            (broken / "optimizer.pt").write_bytes(b"x" * 10)
        case _:
            (broken / MANIFEST).write_text("{")
    assert checkpoints.latest_whole(tmp_path, "k") == tmp_path / "checkpoint-5"
    assert left(tmp_path) == ["checkpoint-5"]


def test_a_checkpoint_of_another_configuration_or_data_is_not_used(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5, key="other")
    assert checkpoints.latest_whole(tmp_path, "k") is None
    assert left(tmp_path) == []


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoints.latest_whole(tmp_path / "absent", "k") is None
    assert checkpoints.step_of(None) == 0
    assert checkpoints.step_of(Path("checkpoint-12")) == 12


def test_a_manifest_without_files_finishes_nothing(tmp_path: Path) -> None:
    folder_manifest.seal(tmp_path, MANIFEST, "k", [])
    assert not folder_manifest.whole(tmp_path, MANIFEST, "k")
