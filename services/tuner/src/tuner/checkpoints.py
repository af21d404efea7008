"""Checkpoints as the trainer leaves them, `checkpoint-STEP`, each sealed with a manifest; the others are never used."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import msgspec

from tuner import folder_manifest

MANIFEST: Final = "kaito_manifest.json"
_NAME: Final = re.compile(r"checkpoint-(\d+)")
_LIMIT: Final = "micro_limit"


class _Limit(msgspec.Struct, frozen=True):
    """What `micro_limit` holds."""

    key: str
    samples: int


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


def of_another_run(folder: Path, key: str) -> int:
    """The step of the newest checkpoint that has a manifest of another run than `key`, 0 for none."""
    for step in sorted(_steps(folder), reverse=True):
        manifest = folder_manifest.read(folder / f"checkpoint-{step}", MANIFEST)
        if manifest is not None and manifest.key != key:
            return step
    return 0


def prune(folder: Path) -> None:
    """Delete all checkpoints and what belongs to them: the adapter is finished."""
    for step in _steps(folder):
        shutil.rmtree(folder / f"checkpoint-{step}")
    (folder / _LIMIT).unlink(missing_ok=True)


def read_limit(folder: Path, key: str) -> int | None:
    """Return the micro-batch that an earlier pod of run `key` had to come down to."""
    try:
        found = msgspec.json.decode((folder / _LIMIT).read_bytes(), type=_Limit)
    except (OSError, msgspec.MsgspecError):
        return None
    return max(1, found.samples) if found.key == key else None


def write_limit(folder: Path, key: str, samples: int) -> None:
    """Keep the micro-batch for the next pod of run `key`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{_LIMIT}.partial"
    partial.write_bytes(msgspec.json.encode(_Limit(key, samples)))
    partial.replace(folder / _LIMIT)


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return [int(match[1]) for match in matches if match]
