"""Downloads of training data: every address checked, resumable, capped, pinned."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from kubecore.backoff import Backoff, BackoffPolicy
from tuner import room as space
from tuner.data import location, transfer_error
from tuner.data.guard import check_literal, refusal
from tuner.data.location import Location, LocationError, Policy
from tuner.data.transfer_error import InterruptedTransferError
from tuner.exits import ExitCode, FatalError
from tuner.room import Room

CHUNK: Final = 1 << 20
MAX_REDIRECTS: Final = 5
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_logger = logging.getLogger(__name__)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one download."""

    max_bytes: int = 20 * 1024**3
    connect_seconds: float = 15.0
    silence_seconds: float = 60.0
    """Longest wait for the next byte."""
    total_seconds: float = 3600.0
    attempts: int = 6
    """Tries in a row that may bring not one byte."""
    pauses: BackoffPolicy = BackoffPolicy(base=1.0, cap=30.0)
    """Between such tries."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is on the disk, whole."""

    path: str
    shown: str
    """Where it came from, without secrets."""
    size: int
    sha256: str


class _Part(msgspec.Struct, frozen=True):
    """What `FILE.part` holds so far; written beside it."""

    url: str
    etag: str


Moved = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0 where unknown)."""


class Downloader:
    """Brings files into one folder with one session."""

    def __init__(
        self, client: aiohttp.ClientSession, folder: Path, policy: Policy, limits: Limits, *, room: Room | None = None
    ) -> None:
        self._client = client
        self._folder = folder
        self._room = room or Room(folder=str(folder))
        self._policy = policy
        self._limits = limits

    async def download(self, where: Location, moved: Moved) -> Fetched:
        """Bring one file; a part that an earlier try left is continued. Raises FatalError."""
        key = hashlib.sha256(f"{where.url}#{where.sha256}".encode()).hexdigest()[:12]
        target = self._folder / f"{key}-{where.file_name}"
        if await asyncio.to_thread(target.is_file):
            return await asyncio.to_thread(_done, target, where)
        part = target.with_name(target.name + ".part")
        seconds = self._limits.total_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._until_whole(where, part, moved)
        except TimeoutError as error:
            raise FatalError(
                ExitCode.DATA_UNAVAILABLE,
                f"{where.shown} did not arrive within {seconds:.0f} s; the part that did is kept",
            ) from error
        except LocationError as error:
            raise FatalError(ExitCode.DATA_INVALID, str(error)) from error
        return await asyncio.to_thread(_accept, part, target, where)

    async def _until_whole(self, where: Location, part: Path, moved: Moved) -> None:
        pause = Backoff(self._limits.pauses)
        while True:
            before = _size(part)
            try:
                await self._transfer(where, part, moved)
                return
            except (InterruptedTransferError, aiohttp.ClientError, TimeoutError) as error:
                cause = refusal(error)
                if cause is not None:
                    raise cause from error
                if _size(part) > before:
                    pause.reset()
                seconds = pause.next()
                words = transfer_error.words(error)
                if pause.failures >= self._limits.attempts:
                    message = f"{where.shown} cannot be read: {words} ({pause.failures} tries)"
                    raise FatalError(ExitCode.DATA_UNAVAILABLE, message) from error
                extra = {"source": where.shown, "error": words, "bytes": _size(part)}
                _logger.warning("download interrupted", extra=extra)
                await asyncio.sleep(seconds)

    async def _transfer(self, where: Location, part: Path, moved: Moved) -> None:
        """One try. Returns when the file is whole."""
        have, known = _size(part), _read_note(part, where)
        # Before the request: what the server sends is read at once, for a connection that breaks takes unread bytes with it.
        most = have + await asyncio.to_thread(space.left, self._room)
        headers = {}
        # Without a validator or a pin nobody can tell whether the rest belongs to the same file.
        if have and known is not None and (known.etag or where.sha256):
            headers["Range"] = f"bytes={have}-"
            if known.etag:
                headers["If-Range"] = known.etag
        async with await self._follow(where, headers) as response:
            if response.status == 416 and have:
                _drop(part)
                raise InterruptedTransferError("the server has fewer bytes than before")
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status != 200 and not resumed:
                _refuse(where, response.status)
            start = have if resumed else 0
            total = 0 if response.content_length is None else start + response.content_length
            if total > self._limits.max_bytes:
                raise _too_large(where, self._limits)
            if total > most:
                raise space.full(
                    self._room, f"{where.shown} has {total} bytes, but only {max(0, most)} are free for it"
                )
            _write_note(part, where, _strong(response.headers.get("ETag", "")))
            done = await self._store(response, where, part, (start, most), lambda done: moved(done, total))
        if total and done < total:
            raise InterruptedTransferError(f"the connection ended after {done} of {total} bytes")

    async def _store(
        self,
        response: aiohttp.ClientResponse,
        where: Location,
        part: Path,
        span: tuple[int, int],
        moved: Callable[[int], None],
    ) -> int:
        """Append the body to the part, between the two offsets of `span`; return the bytes that it has then."""
        start, most = span
        done = start
        # Unbuffered: what a full disk refuses is not tried again when the file is closed.
        with part.open("r+b" if start else "wb", buffering=0) as file:
            if start:
                file.truncate(start)
                file.seek(start)
            async for chunk in response.content.iter_chunked(CHUNK):
                done += len(chunk)
                if done > self._limits.max_bytes:
                    raise _too_large(where, self._limits)
                if done > most:
                    raise space.full(
                        self._room, f"{where.shown} has more than the {max(0, most)} bytes that are free for it"
                    )
                try:
                    await asyncio.to_thread(_append, file, chunk)
                except OSError as error:
                    message = f"{part.parent}: {error.strerror}; give the data volume more"
                    raise FatalError(ExitCode.DISK_FULL, message) from error
                moved(done)
        return done

    async def _follow(self, where: Location, headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Ask, and follow redirects by hand: each goes through the same checks as the first address."""
        here = where
        for _ in range(MAX_REDIRECTS + 1):
            check_literal(here, self._policy)
            response = await self._client.get(here.url, headers=headers, allow_redirects=False)
            if response.status not in _REDIRECTS or "Location" not in response.headers:
                return response
            response.release()
            here = location.redirected(here, response.headers["Location"], self._policy)
        raise LocationError(f"{where.shown} redirects more than {MAX_REDIRECTS} times")


def _append(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _refuse(where: Location, status: int) -> None:
    """Raise what an unwelcome status means."""
    if status in _RETRIED_STATUSES:
        raise InterruptedTransferError(f"HTTP {status}")
    meanings = {
        401: "needs a login, which cannot be given for a URL: put the data into a volume or an image",
        403: "refuses us (HTTP 403): the link may have expired",
        404: "does not exist (HTTP 404): check tuning.input.urls",
        410: "is gone (HTTP 410): check tuning.input.urls",
    }
    raise FatalError(ExitCode.DATA_INVALID, f"{where.shown} {meanings.get(status, f'answers HTTP {status}')}")


def _too_large(where: Location, limits: Limits) -> FatalError:
    return FatalError(
        ExitCode.DATA_INVALID, f"{where.shown} is larger than the {limits.max_bytes} bytes that the operator allows"
    )


def _accept(part: Path, target: Path, where: Location) -> Fetched:
    """Check the whole part and give it its name."""
    digest = file_digest(part)
    if where.sha256 and digest != where.sha256:
        _drop(part)
        raise FatalError(
            ExitCode.DATA_INVALID,
            f"{where.shown} has changed: its sha256 is {digest}, pinned is {where.sha256}. Check it and renew the pin",
        )
    size = part.stat().st_size
    if size == 0:
        _drop(part)
        raise FatalError(ExitCode.DATA_INVALID, f"{where.shown} is empty")
    part.replace(target)
    _note(part).unlink(missing_ok=True)
    return Fetched(path=str(target), shown=where.shown, size=size, sha256=digest)


def _done(target: Path, where: Location) -> Fetched:
    return Fetched(path=str(target), shown=where.shown, size=target.stat().st_size, sha256=file_digest(target))


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path, where: Location) -> _Part | None:
    try:
        note = msgspec.json.decode(_note(part).read_bytes(), type=_Part)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return note if note.url == where.url else None


def _write_note(part: Path, where: Location, etag: str) -> None:
    _note(part).write_bytes(msgspec.json.encode(_Part(where.url, etag)))


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
