"""Objects by key, with named indexes. Pure bookkeeping: no I/O, no events, no time."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from kaito_api.meta import Key, Object

T = TypeVar("T", bound=Object)
IndexFunction = Callable[[T], Iterable[str]]


class Difference(NamedTuple, Generic[T]):
    """What a complete list changed. Deletions that nobody announced are among `removed`."""

    added: list[T]
    changed: list[tuple[T, T]]
    removed: list[T]


class Store(Generic[T]):
    """The cache of one kind. Index functions must be pure: they are called again to find an old object's entries."""

    def __init__(self, indexes: Mapping[str, IndexFunction[T]] | None = None) -> None:
        self._objects: dict[Key, T] = {}
        self._functions = dict(indexes or {})
        self._indexes: dict[str, dict[str, dict[Key, T]]] = {name: {} for name in self._functions}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> T | None:
        """Return the object or None."""
        return self._objects.get(key)

    def list(self) -> list[T]:
        """Return all objects, oldest in the cache first."""
        return [*self._objects.values()]

    def by_index(self, name: str, value: str) -> builtins.list[T]:
        """Return the objects for which index function `name` yields `value`. Raises KeyError for an unknown index."""
        return [*self._indexes[name].get(value, {}).values()]

    def put(self, obj: T) -> T | None:
        """Add or replace; return what stood there."""
        key = obj.metadata.key
        old = self._objects.get(key)
        if old is not None:
            self._unindex(key, old)
        self._objects[key] = obj
        for name, function in self._functions.items():
            for value in function(obj):
                self._indexes[name].setdefault(value, {})[key] = obj
        return old

    def pop(self, key: Key) -> T | None:
        """Remove; return what stood there."""
        old = self._objects.pop(key, None)
        if old is not None:
            self._unindex(key, old)
        return old

    def replace(self, objects: Iterable[T], keep: Callable[[T], bool] = lambda _: False) -> Difference[T]:
        """Make the store hold exactly `objects`, and the present ones for which `keep` says so.

        An object whose resourceVersion stayed the same is not among the changed.
        """
        added: list[T] = []
        changed: list[tuple[T, T]] = []
        removed: list[T] = []
        present: set[Key] = set()
        for obj in objects:
            key = obj.metadata.key
            present.add(key)
            old = self._objects.get(key)
            if old is None:
                added.append(obj)
            elif keep(old) or old.metadata.resource_version == obj.metadata.resource_version:
                continue
            else:
                changed.append((old, obj))
            self.put(obj)
        for key in [key for key in self._objects if key not in present]:
            old = self._objects[key]
            if not keep(old):
                self.pop(key)
                removed.append(old)
        return Difference(added, changed, removed)

    def _unindex(self, key: Key, obj: T) -> None:
        for name, function in self._functions.items():
            entries = self._indexes[name]
            for value in function(obj):
                keys = entries.get(value)
                if keys is not None:
                    keys.pop(key, None)
                    if not keys:
                        del entries[value]
