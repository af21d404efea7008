"""What the supervisor hands to the training child: one JSON file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tuner.config.recipe import Recipe
from tuner.data.fetch import Fetched
from tuner.room import Room

FORMAT = 1
"""Rises when a checkpoint or a finished folder of an older tuner no longer means the same."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the child. Paths are absolute."""

    recipe: Recipe
    model: str
    base_model: str
    """The preset's name, for the adapter's README."""
    files: tuple[Fetched, ...]
    prepared: str
    """Folder for the table of tokens."""
    checkpoints: str
    staging: str
    """Folder for the finished adapter, before it becomes the output."""
    key: str
    events: str = ""
    """Path of the supervisor's Unix socket."""
    micro_limit: int | None = None
    sharding: str = "auto"
    """auto, or one of memory.Sharding."""
    dry_run: bool = False
    room: Room | None = None
    """Of the folder with data, table and finished adapter."""


def request_key(recipe: Recipe, model: Path, run: str) -> str:
    """Return a digest of one request, whose result needs no look at the data: `run` (--run), configuration, base model.

    "" where the run has no name: the same words can mean other data then.
    """
    return _digest([FORMAT, msgspec.to_builtins(recipe), _config_digest(model), run]) if run else ""


def result_key(owner: str, run: str) -> str:
    """Return a digest of what a finished result was made from (`run`, of run_key) and for whom."""
    return _digest([FORMAT, "result", owner, run])


def run_key(recipe: Recipe, model: Path, files: Sequence[Fetched]) -> str:
    """Return a digest of what a checkpoint depends on: configuration, base model, the data's content."""
    return _digest([FORMAT, msgspec.to_builtins(recipe), _config_digest(model), [file.sha256 for file in files]])


def _config_digest(model: Path) -> str:
    """The base is told by its configuration and the sizes of its weights: hashing them would take minutes."""
    try:
        config = (model / "config.json").read_bytes()
    except OSError:
        return ""
    sizes = sorted((path.name, path.stat().st_size) for path in model.glob("*.safetensors"))
    return _digest([config.decode(errors="replace"), sizes])


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
