"""Checkpoints as the trainer leaves them, `checkpoint-STEP`, each sealed with a manifest; the others are never used."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Final

import msgspec

from tuner import folder_manifest

MANIFEST: Final = "kaito_manifest.json"
_NAME: Final = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_LIMIT: Final = "micro_limit"
_logger = logging.getLogger(__name__)


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
            _remove(path)
    return found


def rotate(folder: Path, newest: int, keep: int, best: Path | None = None) -> None:
    """Leave `keep` checkpoints up to the one of step `newest`, and `best`; the clock has no say. 0 keeps all.

    To be called when the newest one is sealed: until then the one before it is the last that is whole. What cannot be deleted
    stays: it costs room, not the training.
    """
    older = [step for step in sorted(_steps(folder), reverse=True) if step < newest]
    for step in older[keep - 1 :] if keep > 0 else []:
        if step != step_of(best):
            shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)


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
    """Delete all checkpoints and what belongs to them: the adapter is finished. What cannot be deleted is said, and stays."""
    try:
        for step in _steps(folder):
            _remove(folder / f"checkpoint-{step}")
        (folder / _LIMIT).unlink(missing_ok=True)
    except OSError as error:
        _logger.warning("checkpoints stay though the adapter is finished", extra={"error": str(error)})


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


def _remove(path: Path) -> None:
    """Delete a checkpoint, or what has taken the name of one: a link goes, what it leads to stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


def _steps(folder: Path) -> list[int]:
    """Steps of everything that has the name of a checkpoint, a file too: the trainer could not write its own there."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return [int(match[1]) for match in matches if match]
