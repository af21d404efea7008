"""One blob as a stream of bytes: verified against its digest, picked up by Range where the connection broke.

oras-py's `download_blob` writes whatever arrives, starts anew after a break and never looks at the digest.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import urllib3.exceptions

from kaito_oci import digest as digests
from kaito_oci import refusal, retry
from kaito_oci.digester import Digester
from kaito_oci.errors import DigestMismatch, DiskFull, Truncated, Unavailable
from kaito_oci.limits import Patience
from kaito_oci.manifest import Descriptor
from kaito_oci.operation import CURRENT
from kaito_oci.registry import NETWORK_ERRORS, HardenedRegistry, blob_missing

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

OnBytes = Callable[[int], None]


class BlobStream:
    """Reads one blob in order. The last read verifies the digest: until then nothing that was read may be believed."""

    def __init__(
        self,
        registry: HardenedRegistry,
        descriptor: Descriptor,
        *,
        on_bytes: OnBytes | None = None,
        offset: int = 0,
        state: _Hash | None = None,
    ) -> None:
        """Start at `offset`, whose earlier bytes are already in `state`."""
        self._registry = registry
        self._descriptor = descriptor
        self._on_bytes = on_bytes
        self._position = offset
        self._digester = Digester(state or digests.hasher(descriptor.digest))
        self._response: requests.Response | None = None
        self._breaks = _Breaks(registry.settings.patience)
        self._end = descriptor.size
        self._sent_to = 0
        self._pace = _Pace(registry.settings.patience.stall, registry.settings.patience.min_rate)
        self._verified = False

    @property
    def position(self) -> int:
        """Bytes of the blob delivered so far."""
        return self._position

    def aim(self, end: int) -> None:
        """Say that nothing beyond byte `end` is wanted for now: no more than that is asked for. The next call may say more."""
        self._end = min(end, self._descriptor.size)

    def read(self, size: int = BLOCK) -> bytes:
        """Some bytes, at most `size`; b"" at the verified end. Raises DigestMismatch, Truncated, Unavailable and others."""
        while self._position < self._descriptor.size:
            if self._response is not None and self._position >= self._sent_to:
                self._hang_up()  # all that was asked for is here
            try:
                response = self._response or self._open()
                chunk = self._receive(response, size)
            except (*NETWORK_ERRORS, _TooSlow) as error:
                self._broken(error)
                continue
            if not chunk:
                self._broken(None)
                continue
            return self._take(chunk)
        self._finish()
        return b""

    def close(self) -> None:
        """Drop the connection and the hashing; allowed at any time, needed at the end."""
        self._hang_up()
        self._digester.close()

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _take(self, chunk: bytes) -> bytes:
        self._position += len(chunk)
        self._breaks.progress(self._position, time.monotonic())
        self._digester.update(chunk)
        if self._on_bytes:
            self._on_bytes(len(chunk))
        return chunk

    def _finish(self) -> None:
        if self._verified:
            return
        if (found := self._digester.result()) != self._descriptor.digest:
            raise self._mismatch(f"bytes with digest {found}")
        self._verified = True
        self._hang_up()

    def _open(self) -> requests.Response:
        reference, wanted = self._registry.reference, self._descriptor.digest
        headers = {"Range": wanted_range} if (wanted_range := self._range()) else {}
        response = self._registry.do_request(self._registry.url(f"blobs/{wanted}"), headers=headers, stream=True)
        if response.status_code == 404:
            response.close()
            raise blob_missing(reference, wanted)
        if response.status_code not in {200, 206}:
            with response:
                raise refusal.error(response, f"{reference.name}, blob {wanted}")
        self._pace.resume()
        self._response = response
        self._sent_to = self._descriptor.size
        if response.status_code == 206:
            self._check_range(response)
            self._sent_to = max(self._end, self._position + 1)
        elif self._position:
            self._skip(response)
        return response

    def _range(self) -> str:
        """The Range header's value, "" for the whole blob."""
        if self._position < self._end < self._descriptor.size:
            return f"bytes={self._position}-{self._end - 1}"
        return f"bytes={self._position}-" if self._position else ""

    def _receive(self, response: requests.Response, size: int) -> bytes:
        try:
            chunk: bytes = response.raw.read1(size, decode_content=False)
        except urllib3.exceptions.ReadTimeoutError:
            raise  # a silence is a break by itself, and is not held against the next connection
        except NETWORK_ERRORS:
            self._pace.pause()
            raise
        self._pace.add(len(chunk))
        return chunk

    def _check_range(self, response: requests.Response) -> None:
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if not found or int(found.group(1)) != self._position:
            raise self._mismatch("another range of it than was asked for")

    def _skip(self, response: requests.Response) -> None:
        """The registry ignores Range: read again what is already here."""
        left = self._position
        while left:
            chunk = self._receive(response, min(left, BLOCK))
            if not chunk:
                raise ConnectionResetError
            left -= len(chunk)

    def _broken(self, error: Exception | None) -> None:
        """The connection broke or ended early: wait a little, then let the next read open it again."""
        self._hang_up()
        operation = CURRENT.get()
        operation.check()
        patience = self._registry.settings.patience
        breaks = self._breaks.another(self._position, time.monotonic())
        if breaks >= patience.attempts:
            got = f"{self._position} of {self._descriptor.size} bytes"
            if isinstance(error, _TooSlow):
                slow = f"less than {patience.min_rate} bytes/s for {patience.stall:g} s"
                raise Unavailable(f"{self._what}: {self._registry.hostname} sends {slow}, after {got}") from error
            raise Truncated(f"{self._what}: the connection ends after {got}, {breaks} times in a row") from error
        operation.wait(retry.pause(patience, breaks - 1, random.random(), None))

    def _mismatch(self, sent: str) -> DigestMismatch:
        self._hang_up()
        return DigestMismatch(f"{self._what}: the registry sent {sent}")

    @property
    def _what(self) -> str:
        return f"{self._registry.reference.name}, blob {self._descriptor.digest[:19]}"


def download(registry: HardenedRegistry, descriptor: Descriptor, target: Path, on_bytes: OnBytes | None = None) -> None:
    """Fetch a blob to `target`. What an earlier, broken call left in `<target>.part` is hashed and continued."""
    part = target.with_name(f"{target.name}.part")
    with disk_errors(target), part.open("ab") as file:
        state, offset = _resume(part, descriptor)
        if offset == 0:
            file.truncate(0)
        elif on_bytes:
            on_bytes(offset)
        with closing(BlobStream(registry, descriptor, on_bytes=on_bytes, offset=offset, state=state)) as stream:
            while chunk := stream.read():
                file.write(chunk)
    with disk_errors(target):
        part.replace(target)


def _resume(part: Path, descriptor: Descriptor) -> tuple[_Hash, int]:
    """The hash and length of a part that is worth keeping; an empty start where it is longer than the blob."""
    state, length = digests.hasher(descriptor.digest), part.stat().st_size
    if length > descriptor.size:
        return state, 0
    with part.open("rb") as file:
        while chunk := file.read(BLOCK):
            state.update(chunk)
    if length == descriptor.size and digests.of(state) != descriptor.digest:
        return digests.hasher(descriptor.digest), 0
    return state, length


class disk_errors:  # noqa: N801 - used as a block, reads as one
    """Turns "no space left" into DiskFull; other file errors pass."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            free = os.statvfs(self._target.parent)
            left = free.f_bavail * free.f_frsize
            raise DiskFull(f"no space left under {self._target.parent} ({left // 2**20} MiB free)") from error


class _TooSlow(Exception):  # noqa: N818 - internal signal
    pass


class _Pace:
    """Notices a body that trickles. Only the time in which a body is read counts, over all connections together."""

    def __init__(self, seconds: float, rate: int) -> None:
        self._seconds = seconds
        self._rate = rate
        self._bytes = 0
        self._elapsed = 0.0
        self.resume()

    def resume(self) -> None:
        """A body begins, or goes on."""
        self._since = time.monotonic()

    def pause(self) -> None:
        """The body broke: what was waited for it counts, what comes until the next one does not."""
        now = time.monotonic()
        self._elapsed += now - self._since
        self._since = now

    def add(self, count: int) -> None:
        """Some bytes came, or none. Raises _TooSlow."""
        self.pause()
        self._bytes += count
        if self._elapsed >= self._seconds:
            slow = self._bytes < self._rate * self._elapsed
            self._bytes, self._elapsed = 0, 0.0
            if slow:
                raise _TooSlow


class _Breaks:
    """Counts how often in a row the connection broke. A row ends only when enough has come since its first break.

    Enough is what the slowest line that counts as alive would have brought, the time to connect again included: a registry
    that gives a few bytes each time would otherwise hold a pull without end.
    """

    def __init__(self, patience: Patience) -> None:
        self._rate = patience.min_rate
        self._least = patience.min_rate * patience.stall
        self._count = 0
        self._position = 0
        self._since = 0.0

    def another(self, position: int, now: float) -> int:
        """One more, after so many bytes of the blob; how many there are now."""
        if not self._count:
            self._position, self._since = position, now
        self._count += 1
        return self._count

    def progress(self, position: int, now: float) -> None:
        """So many bytes of the blob are here."""
        if self._count and position - self._position >= max(self._least, self._rate * (now - self._since)):
            self._count = 0
