"""The files of the data: downloaded, or found in a folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tuner.data import fetch as fetching
from tuner.data import guard, location
from tuner.data.fetch import Fetched, Moved
from tuner.data.location import Location, LocationError
from tuner.exits import ExitCode, FatalError
from tuner.options import Options


async def fetch(settings: Options, moved: Moved) -> tuple[Fetched, ...]:
    """Bring every file, one after the other. Raises FatalError."""
    if settings.data is not None:
        return await asyncio.to_thread(_described, settings.data)
    folder = settings.work / "downloads"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    limits = settings.limits
    async with guard.session(
        settings.policy, connect_seconds=limits.connect_seconds, silence_seconds=limits.silence_seconds
    ) as client:
        downloader = fetching.Downloader(client, folder, settings.policy, limits, room=settings.room)
        return tuple([await downloader.download(where, moved) for where in _locations(settings)])


def _locations(settings: Options) -> list[Location]:
    try:
        return [location.parse(url, settings.policy) for url in settings.urls]
    except LocationError as error:
        raise FatalError(ExitCode.DATA_INVALID, f"tuning.input.urls: {error}") from error


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


def _described(folder: Path) -> tuple[Fetched, ...]:
    return tuple(
        Fetched(
            path=str(path),
            shown=path.relative_to(folder).as_posix(),
            size=path.stat().st_size,
            sha256=fetching.file_digest(path),
        )
        for path in _found(folder)
    )
