"""List, then watch, for ever: the state machine that keeps a cache true to the apiserver.

    list ──► watch from its version ──► server ends it / connection breaks ──► watch again from the last version seen
     ▲                                   410, as status or as event, or the server refuses the version
     └───────────────────────────────────────────────┘

A watch asks for bookmarks, which come about once a minute: `silence` seconds without a byte therefore mean a dead connection.
Every end that is not the server's regular one is followed by a backoff with jitter. `run` never returns and raises only what
is a defect of ours; deletions missed between two lists are the sink's to find (Store.replace).
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from typing import Any, Generic, Never, Protocol, TypeVar

import msgspec

from kaito_api.meta import Object, Resource
from kubecore import metrics
from kubecore.backoff import Backoff, BackoffPolicy
from kubecore.client import Client, decode_object
from kubecore.clock import Clock, SystemClock
from kubecore.errors import ApiError, Gone, TooManyRequests, TransportError, decode_status, error_from_status

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

MAX_LINE = 16 * 1024 * 1024
MAX_REFUSALS = 3
MAX_RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Timings:
    """How patient a reflector is; all in seconds."""

    silence: float = 70.0
    """Without a byte the connection counts as dead. Above the bookmarks' interval of about 60 s."""
    open_timeout: float = 10.0
    """For a watch to be answered, which an apiserver does at once; after a fault the pool may hold dead connections."""
    server_min: int = 300
    """The server is asked to end each watch after a random time between this and `server_max`, so that load spreads."""
    server_max: int = 600
    list_timeout: float = 60.0
    """For one page of 500 objects."""
    backoff: BackoffPolicy = field(default_factory=lambda: BackoffPolicy(base=0.2, cap=10.0))


class Sink(Protocol[T]):
    """Where a reflector's findings go. Called on the event loop, must not block."""

    def replaced(self, objects: list[T], resource_version: str) -> None:
        """Take a complete list: what is not in it does not exist."""

    def changed(self, kind: str, obj: T) -> None:
        """Take one watch event; `kind` is ADDED, MODIFIED or DELETED."""


class LineSplitter:
    """Cuts a byte stream into lines. aiohttp's own reader gives up at 64 KiB; an object may have 16 MiB here."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._rest = bytearray()

    @property
    def incomplete(self) -> bool:
        """Whether the stream so far ends inside a line."""
        return bool(self._rest)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without blank ones. Raises TransportError for an endless line."""
        head, *tail = chunk.split(b"\n")
        self._rest += head
        if len(self._rest) > self._limit:
            raise TransportError(f"a line of the watch exceeds {self._limit} bytes")
        if not tail:
            return []
        lines = [bytes(self._rest), *tail[:-1]]
        self._rest = bytearray(tail[-1])
        return [line for line in lines if line and not line.isspace()]


class _WatchEvent(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _VersionMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _VersionMeta = _VersionMeta()


_decode_event = msgspec.json.Decoder(_WatchEvent).decode
_decode_version = msgspec.json.Decoder(_Versioned).decode


class Reflector(Generic[T]):
    """Keeps one sink up to date with one collection."""

    def __init__(
        self,
        client: Client,
        res: Resource[T],
        sink: Sink[T],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timings: Timings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._res = res
        self._sink = sink
        self._scope = (namespace, label_selector, field_selector)
        self.timings = timings or Timings()
        self._clock = clock or SystemClock()
        self._backoff = Backoff(self.timings.backoff)
        self._version = ""
        self._progress = False
        self.last_success = self._clock.monotonic()
        """Monotonic time of the last answer or byte of a watch."""
        self.last_attempt = self.last_success
        """Monotonic time of the last sign that the loop itself is alive, failures included."""
        self.last_error: Exception | None = None
        """Why the collection cannot be read now; None while it can."""

    async def run(self) -> Never:
        """List and watch until cancelled."""
        while True:
            try:
                await self._list()
                await self._watch_until_expired()
            except (ApiError, TransportError) as error:
                await self._failed("list", error)
            else:
                if not self._progress:  # listed, and the version was refused at once: do not spin
                    await self._clock.sleep(self._backoff.next())

    async def _list(self) -> None:
        self._touch()
        listing = await self._client.listing(self._res, *self._scope, timeout=self.timings.list_timeout)
        if listing.unreadable:
            self._unreadable(f"{listing.unreadable} objects of a list")
        self._sink.replaced(listing.items, listing.resource_version)
        self._version = listing.resource_version
        self._progress = False
        metrics.INFORMER_LISTS.labels(self._res.plural).inc()
        self._succeeded()

    async def _watch_until_expired(self) -> None:
        """Watch again and again from the last version; return when that version is no longer served."""
        refusals = 0
        while True:
            started = self._clock.monotonic()
            before = self._version
            try:
                await self._watch()
            except Gone as error:
                logger.info("watch expired, listing again", extra=self._fields(error))
                return
            except TransportError as error:
                await self._failed("watch", error)
            except ApiError as error:
                refusals = 1 if self._version != before else refusals + (not isinstance(error, TooManyRequests))
                await self._failed("watch", error)
                if refusals >= MAX_REFUSALS:  # such as a version from the future, after etcd was restored
                    return
            else:
                refusals = 0
                if self._version == before and self._clock.monotonic() - started < 1.0:
                    await self._clock.sleep(self._backoff.next())  # a server that ends every watch at once

    async def _watch(self) -> None:
        self._touch()
        server_seconds = random.randint(self.timings.server_min, self.timings.server_max)
        splitter = LineSplitter()
        async with self._client.watch(
            self._res,
            *self._scope,
            resource_version=self._version,
            server_seconds=server_seconds,
            open_timeout=self.timings.open_timeout,
            silence=self.timings.silence,
        ) as stream:
            self._succeeded()
            while chunk := await stream.read():
                lines = splitter.feed(chunk)
                for line in lines:
                    self._event(line)
                self._succeeded()
                if lines:
                    self._progress = True
                    self._backoff.reset()
        if splitter.incomplete:
            raise TransportError("the watch ended inside an event")

    def _event(self, line: bytes) -> None:
        try:
            event = _decode_event(line)
            if event.type == "ERROR":
                raise error_from_status(decode_status(event.object))
            if event.type == "BOOKMARK":
                self._advance(_decode_version(event.object))
                return
            obj = decode_object(self._res, event.object)
        except msgspec.ValidationError as error:
            self._unreadable(str(error))
            self._skip(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TransportError(f"the watch sent something that is no event: {error}") from error
        else:
            metrics.INFORMER_EVENTS.labels(self._res.plural, event.type).inc()
            self._sink.changed(event.type, obj)
            self._advance(obj)

    def _skip(self, line: bytes) -> None:
        """Pass over an object that does not fit our view, without losing the place in the stream."""
        try:
            self._advance(_decode_version(_decode_event(line).object))
        except msgspec.DecodeError as error:
            raise TransportError(f"the watch sent something that is no event: {error}") from error

    def _advance(self, obj: Any) -> None:
        version = obj.metadata.resource_version
        if version:
            self._version = version

    async def _failed(self, step: str, error: ApiError | TransportError) -> None:
        self.last_error = error
        metrics.INFORMER_FAILURES.labels(self._res.plural, type(error).__name__).inc()
        wait = max(self._backoff.next(), min(MAX_RETRY_AFTER, getattr(error, "retry_after", None) or 0.0))
        logger.warning(
            "informer cannot read", extra={**self._fields(error), "step": step, "retry_seconds": round(wait, 2)}
        )
        await self._clock.sleep(wait)

    def _unreadable(self, what: str) -> None:
        metrics.INFORMER_UNREADABLE.labels(self._res.plural).inc()
        logger.error(
            "object does not fit our view and is left out", extra={"resource": self._res.plural, "reason": what}
        )

    def _succeeded(self) -> None:
        self._touch()
        self.last_success = self.last_attempt
        self.last_error = None
        metrics.INFORMER_ACTIVE.labels(self._res.plural).set(self._clock.now().timestamp())

    def _touch(self) -> None:
        self.last_attempt = self._clock.monotonic()

    def _fields(self, error: Exception) -> dict[str, object]:
        return {"resource": self._res.plural, "resource_version": self._version, "reason": str(error)}
