"""Checkpoints as the trainer leaves them, `checkpoint-STEP`, each sealed with a manifest; the others are never used."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from tuner import folder_manifest

MANIFEST: Final = "kaito_manifest.json"
_NAME: Final = re.compile(r"checkpoint-(\d+)")


def seal(folder: Path, step: int, key: str) -> None:
    """Declare the checkpoint of `step` whole."""
    folder_manifest.seal(folder / f"checkpoint-{step}", MANIFEST, key)


def latest_whole(folder: Path, key: str) -> Path | None:
    """Return the newest whole checkpoint of this very run; every other one is deleted, for the trainer would use it."""
    found: Path | None = None
    for step in sorted(_steps(folder), reverse=True):
        path = folder / f"checkpoint-{step}"
        if found is None and folder_manifest.whole(path, MANIFEST, key):
            found = path
        elif found is None or not (path / MANIFEST).is_file():
            shutil.rmtree(path)
    return found


def step_of(checkpoint: Path | None) -> int:
    """The step after which a checkpoint was written, 0 for none."""
    match = _NAME.fullmatch(checkpoint.name) if checkpoint is not None else None
    return int(match[1]) if match else 0


def prune(folder: Path) -> None:
    """Delete all checkpoints: the adapter is finished."""
    for step in _steps(folder):
        shutil.rmtree(folder / f"checkpoint-{step}")


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return [int(match[1]) for match in matches if match]
