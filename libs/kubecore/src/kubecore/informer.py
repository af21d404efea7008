"""A cache of one kind that is always nearly current, and a call for everything that changes in it."""

from __future__ import annotations

import asyncio
import builtins
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Never, TypeVar

from kaito_api.meta import Key, Object, Resource
from kubecore import metrics
from kubecore.client import Client
from kubecore.clock import Clock, SystemClock
from kubecore.errors import TransportError
from kubecore.reflector import Reflector, Timings
from kubecore.store import IndexFunction, Store

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)


class EventType(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """One change of the cache. A deletion has no `new`, an addition no `old`.

    Where `old` is the very object `new`, somebody's change came after our own later write: the cache had it already, but no
    handler has heard of it.
    """

    type: EventType
    old: T | None
    new: T | None
    initial: bool = False
    """Part of the first list: enqueue at low priority, so that fresh changes are not kept waiting."""
    echo: bool = False
    """The very version that `Informer.record` was given: whoever wrote it knows it already."""

    @property
    def obj(self) -> T:
        """The object in its latest known state."""
        known = self.new if self.new is not None else self.old
        if known is None:
            raise ValueError("an event without an object")
        return known

    @property
    def key(self) -> Key:
        """The object's key."""
        return self.obj.metadata.key


Handler = Callable[[Event[T]], None]


class Informer(Generic[T]):
    """Run it with a Manager, or `run()` in a TaskGroup. Reads are synchronous and never wait.

    Objects are shared with all readers and frozen. Handlers are called synchronously on the event loop, in the order of
    the changes; they only enqueue keys. A handler that raises is reported and does not stop the others.
    """

    def __init__(
        self,
        client: Client,
        res: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        indexes: Mapping[str, IndexFunction[T]] | None = None,
        prune: Callable[[T], T] | None = None,
        timings: Timings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`indexes` name pure functions from an object to the values under which `by_index` finds it.

        `prune` drops what nobody reads before an object is stored; it must keep the metadata's identity and version.
        """
        self.res = res
        self.clock = clock or SystemClock()
        self._store: Store[T] = Store(indexes)
        self._prune = prune
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()
        self._seen = 0
        self._recorded: dict[Key, str] = {}
        self.reflector = Reflector(
            client,
            res,
            self,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            timings=timings,
            clock=self.clock,
        )

    def get(self, key: Key) -> T | None:
        """Return the object or None."""
        return self._store.get(key)

    def list(self) -> list[T]:
        """Return all objects."""
        return self._store.list()

    def by_index(self, name: str, value: str) -> builtins.list[T]:
        """Return the objects that index `name` has under `value`. Raises KeyError for an unknown index."""
        return self._store.by_index(name, value)

    def __len__(self) -> int:
        return len(self._store)

    def add_handler(self, handler: Handler[T]) -> None:
        """Call `handler` for every change from now on, and at once (as initial additions) for what is in the cache."""
        self._handlers.append(handler)
        for obj in self._store.list():
            self._call(handler, Event(EventType.ADDED, None, obj, initial=True))

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""
        return self._synced.is_set()

    async def wait_synced(self, timeout: float) -> None:
        """Wait for the first list. Raises TimeoutError with the reason after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._synced.wait()
        except TimeoutError as error:
            reason = self.reflector.last_error or "no answer yet"
            raise TimeoutError(f"{self.res.plural} could not be listed within {timeout:g} s: {reason}") from error

    def record(self, obj: T) -> None:
        """Take the answer to a write of our own into the cache before the watch brings it.

        The next reconcile then sees its own write, and the watch event of that version arrives with `echo` set. Only for
        objects that this informer's selectors admit. An answer that the watch has overtaken is ignored.
        """
        version = _number(obj.metadata.resource_version)
        if not self.synced or version <= self._seen:
            return
        current = self._store.get(obj.metadata.key)
        if current is not None and _number(current.metadata.resource_version) >= version:
            return
        self._store.put(self._prune(obj) if self._prune else obj)
        self._recorded[obj.metadata.key] = obj.metadata.resource_version

    async def run(self) -> Never:
        """Keep the cache current until cancelled."""
        await self.reflector.run()

    def replaced(self, objects: builtins.list[T], resource_version: str) -> None:
        """Take a complete list (called by the reflector)."""
        listed = _number(resource_version)
        pruned = [self._prune(obj) for obj in objects] if self._prune else objects
        difference = self._store.replace(
            pruned, keep=lambda obj: self._awaited(obj) and _number(obj.metadata.resource_version) > listed
        )
        self._seen = listed
        covered = [key for key, version in self._recorded.items() if _number(version) <= listed]
        unheard = [obj for obj in map(self._store.get, covered) if obj is not None and self._awaited(obj)]
        for key in covered:
            del self._recorded[key]
        initial = not self.synced
        self._synced.set()
        self._measure()
        for obj in difference.added:
            self._dispatch(Event(EventType.ADDED, None, obj, initial=initial))
        for old, new in difference.changed:
            self._dispatch(Event(EventType.MODIFIED, old, new))
        for obj in difference.removed:
            self._dispatch(Event(EventType.DELETED, obj, None))
        for obj in unheard:  # the list has our write, and covers up what somebody may have changed before it
            self._dispatch(Event(EventType.MODIFIED, obj, obj))

    def changed(self, kind: str, obj: T) -> None:
        """Take one watch event (called by the reflector)."""
        key = obj.metadata.key
        version = _number(obj.metadata.resource_version)
        self._seen = max(self._seen, version)
        if self._prune:
            obj = self._prune(obj)
        current = self._store.get(key)
        ahead = current is not None and _number(current.metadata.resource_version) > version
        if kind == EventType.DELETED:
            if not ahead:
                self._store.pop(key)
                self._recorded.pop(key, None)
            self._measure()
            self._dispatch(Event(EventType.DELETED, obj, None))
        elif ahead:
            # our own later write is in the cache; whoever made this change must still be heard
            self._dispatch(Event(EventType.MODIFIED, current, current))
        else:
            echo = self._awaited(obj)
            if echo:
                del self._recorded[key]
            old = self._store.put(obj)
            self._measure()
            self._dispatch(Event(EventType.MODIFIED if old is not None else EventType.ADDED, old, obj, echo=echo))

    def _awaited(self, obj: T) -> bool:
        """Whether `obj` is as we wrote it, and the watch has not brought it yet."""
        return self._recorded.get(obj.metadata.key) == obj.metadata.resource_version

    def _dispatch(self, event: Event[T]) -> None:
        for handler in self._handlers:
            self._call(handler, event)

    def _call(self, handler: Handler[T], event: Event[T]) -> None:
        try:
            handler(event)
        except Exception:
            # a defect in one handler must not take the cache of all others down
            metrics.HANDLER_ERRORS.labels(self.res.plural).inc()
            logger.exception("event handler failed", extra={"resource": self.res.plural, "key": str(event.key)})

    def _measure(self) -> None:
        metrics.INFORMER_OBJECTS.labels(self.res.plural).set(len(self._store))


def _number(resource_version: str) -> int:
    """Return a resourceVersion as the number that it is (comparable since Kubernetes 1.35, KEP-5504). Raises TransportError."""
    try:
        return int(resource_version)
    except ValueError as error:
        raise TransportError(f"resourceVersion {resource_version!r} is not a number") from error
