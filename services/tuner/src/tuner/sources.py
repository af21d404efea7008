"""The files of the data: downloaded, or found in a folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tuner.data import fetch as fetching
from tuner.data import guard, location
from tuner.data.fetch import Fetched, Moved
from tuner.data.location import Location, LocationError
from tuner.exits import ExitCode, FatalError
from tuner.options import Options

_LISTED: Final = 10
"""Files that are named in a message."""


async def fetch(settings: Options, wanted: str, moved: Moved) -> tuple[Fetched, ...]:
    """Bring every file, one after the other; only what `wanted` (DatasetConfig.dataset_path) names. Raises FatalError."""
    if settings.data is not None:
        return await asyncio.to_thread(_described, settings.data, wanted)
    folder = settings.work / "downloads"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    limits = settings.limits
    async with guard.session(
        settings.policy, connect_seconds=limits.connect_seconds, silence_seconds=limits.silence_seconds
    ) as client:
        downloader = fetching.Downloader(client, folder, settings.policy, limits, room=settings.room)
        return tuple([await downloader.download(where, moved) for where in _locations(settings, wanted)])


def chosen(names: Sequence[str], wanted: str) -> list[int]:
    """Return the positions of the names (relative, with slashes) that `wanted` means: a file, or a folder with all in it. Pure.

    "" means all. KAITO joins the path to /mnt, so it may begin with folders above the data's own: "data/rows.jsonl" is
    rows.jsonl here. Raises FatalError where there is none.
    """
    parts = [part for part in wanted.split("/") if part not in ("", ".")]
    for first in range(len(parts)):
        path = "/".join(parts[first:])
        found = [number for number, name in enumerate(names) if name == path or name.startswith(f"{path}/")]
        if found:
            return found
    if not parts:
        return list(range(len(names)))
    listed = ", ".join(names[:_LISTED])
    raise FatalError(
        ExitCode.CONFIG_INVALID,
        f"DatasetConfig.dataset_path: there is no {wanted} in the data; there is {listed}. Leave it out for all files",
    )


def _locations(settings: Options, wanted: str) -> list[Location]:
    try:
        found = [location.parse(url, settings.policy) for url in settings.urls]
    except LocationError as error:
        raise FatalError(ExitCode.DATA_INVALID, f"tuning.input.urls: {error}") from error
    return [found[number] for number in chosen([where.file_name for where in found], wanted)]


def _found(folder: Path) -> list[Path]:
    """Files of the folder, hidden ones left out, sorted. Raises FatalError."""
    paths = (
        [
            path
            for path in folder.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        ]
        if folder.is_dir()
        else []
    )
    if not paths:
        raise FatalError(ExitCode.DATA_INVALID, f"{folder} holds no file: check the volume or the image of the data")
    return sorted(path for path in paths if "lost+found" not in path.parts)


def _described(folder: Path, wanted: str) -> tuple[Fetched, ...]:
    found = _found(folder)
    names = [path.relative_to(folder).as_posix() for path in found]
    return tuple(_digested(found[number], names[number]) for number in chosen(names, wanted))


def _digested(path: Path, shown: str) -> Fetched:
    try:
        return Fetched(path=str(path), shown=shown, size=path.stat().st_size, sha256=fetching.file_digest(path))
    except PermissionError as error:
        raise FatalError(
            ExitCode.DATA_INVALID,
            f"{path} may not be read by user {os.getuid()}, as which the tuner runs: let everybody read the data on the volume",
        ) from error
