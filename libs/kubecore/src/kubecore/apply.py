"""Writing children without ever touching what belongs to somebody else, and without repeating what stands.

A kind that changes is only ever server-side-applied, never POSTed first: an Update entry and an Apply entry of one manager are
two owners, and a field that is applied no more would stay. A kind that never changes is only POSTed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from kaito_api.meta import Key, Object, Resource
from kubecore.client import Client
from kubecore.errors import AlreadyExists, Conflict, Invalid, NameTaken, NotFound

T = TypeVar("T", bound=Object)
Ours = Callable[[Object], bool]

_canonical = msgspec.json.Encoder(order="deterministic")


def owned_by(uid: str) -> Ours:
    """Return the usual test for "ours": the object's controller owner reference carries this uid."""

    def test(obj: Object) -> bool:
        controller = obj.metadata.controller
        return controller is not None and controller.uid == uid

    return test


def applied_hash(desired: dict[str, Any]) -> str:
    """Return a short digest of a desired object, the same for the same content in any order of keys."""
    return hashlib.sha256(_canonical.encode(desired)).hexdigest()[:16]


class _Standing(NamedTuple):
    uid: str
    digest: str
    generation: int


class Applier:
    """Applies desired objects under one field manager and remembers what stands.

    The digest of what was applied is kept on the object in `annotation`, the generation that it led to in memory: an object
    whose spec somebody else edited has a later generation and is applied again. After a restart the annotation alone is trusted.
    """

    def __init__(self, client: Client, *, manager: str, annotation: str) -> None:
        self._client = client
        self._manager = manager
        self._annotation = annotation
        self._standing: dict[tuple[str, Key], _Standing] = {}

    async def apply(self, res: Resource[T], desired: dict[str, Any], *, current: T | None, ours: Ours) -> T:
        """Make `desired` stand and return the object as stored; nothing is sent when it stands already.

        `current` is what the cache has. Raises NameTaken when an object of that name is not ours, Conflict when it was
        replaced meanwhile (read again), Invalid when an immutable field would change.
        """
        metadata = desired["metadata"]
        key = Key(metadata.get("namespace") or "", metadata["name"])
        digest = applied_hash(desired)
        if current is None:
            current = await self._live(res, key)
        if current is not None:
            _require_ours(res, current, ours)
            if self._stands(res, key, current, digest):
                return current
        body = {
            **desired,
            "metadata": {**metadata, "annotations": {**metadata.get("annotations", {}), self._annotation: digest}},
        }
        if current is not None:
            body["metadata"]["uid"] = current.metadata.uid  # apply to this very object, never create another one
        stored = await self._client.apply(res, body, manager=self._manager)
        if current is None and not ours(stored):
            raise NameTaken(f"{res.kind} {key} appeared while it was created and is not ours")
        self._standing[res.kind, key] = _Standing(stored.metadata.uid, digest, stored.metadata.generation)
        return stored

    def forget(self, res: Resource[Any], key: Key) -> None:
        """Drop what is remembered of an object that is gone."""
        self._standing.pop((res.kind, key), None)

    def _stands(self, res: Resource[Any], key: Key, current: Object, digest: str) -> bool:
        meta = current.metadata
        if meta.annotations.get(self._annotation) != digest:
            return False
        standing = self._standing.get((res.kind, key))
        if standing is None or standing.uid != meta.uid or standing.digest != digest:
            self._standing[res.kind, key] = _Standing(meta.uid, digest, meta.generation)
            return True
        return meta.generation <= standing.generation

    async def _live(self, res: Resource[T], key: Key) -> T | None:
        """Ask the server itself: a cache that lags must not make us merge into a stranger's object."""
        try:
            return await self._client.get(res, key)
        except NotFound:
            return None


async def create_once(
    client: Client, res: Resource[T], desired: dict[str, Any], *, ours: Ours, manager: str | None = None
) -> T:
    """POST an object that never changes; one of ours that exists already is returned. Raises NameTaken, Conflict."""
    try:
        return await client.create(res, desired, manager=manager)
    except AlreadyExists as error:
        metadata = desired["metadata"]
        key = Key(metadata.get("namespace") or "", metadata["name"])
        try:
            found = await client.get(res, key)
        except NotFound:
            raise Conflict(409, "Conflict", f"{res.kind} {key} was there and is gone: try again") from error
        _require_ours(res, found, ours)
        return found


async def add_finalizer(client: Client, res: Resource[T], obj: T, finalizer: str) -> T:
    """Return the object with the finalizer on it; nothing is sent when it is there.

    Raises Conflict when the object changed since it was read: nothing may be done for it before the finalizer is stored.
    """
    meta = obj.metadata
    if finalizer in meta.finalizers:
        return obj
    add: dict[str, Any] = {"op": "add", "path": "/metadata/finalizers", "value": [*meta.finalizers, finalizer]}
    return await _tested(
        client, res, obj, [{"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version}, add]
    )


async def remove_finalizer(client: Client, res: Resource[T], obj: T, finalizer: str) -> T | None:
    """Take our finalizer off and leave the others; None when the object is gone. Raises Conflict when the list changed."""
    if finalizer not in obj.metadata.finalizers:
        return obj
    path = f"/metadata/finalizers/{obj.metadata.finalizers.index(finalizer)}"
    steps = [{"op": "test", "path": path, "value": finalizer}, {"op": "remove", "path": path}]
    try:
        return await _tested(client, res, obj, steps)
    except NotFound:
        return None


async def _tested(client: Client, res: Resource[T], obj: T, steps: list[dict[str, Any]]) -> T:
    """JSON-patch the very object that was read; a failed `test` is a Conflict."""
    meta = obj.metadata
    same = {"op": "test", "path": "/metadata/uid", "value": meta.uid}
    try:
        return await client.patch(res, meta.key, [same, *steps])
    except Invalid as error:
        raise Conflict(409, "Conflict", f"{res.kind} {meta.key} changed since it was read: {error.message}") from error


def _require_ours(res: Resource[Any], obj: Object, ours: Ours) -> None:
    if ours(obj):
        return
    owner = obj.metadata.controller
    whose = f"is controlled by {owner.kind} {owner.name}" if owner is not None else "has no controller"
    raise NameTaken(
        f"{res.kind} {obj.metadata.key} exists already and {whose}: delete or rename it, or choose another name"
    )
