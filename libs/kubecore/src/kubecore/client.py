"""Typed verbs on any kind: the only place that builds URLs. Bodies go from bytes straight into narrow structs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from kaito_api.meta import Key, Resource
from kubecore.errors import Gone, NotFound, NotLeader, TransportError
from kubecore.transport import Request, Stream, Transport

T = TypeVar("T")
Propagation = Literal["Background", "Foreground", "Orphan"]
Manifest = Mapping[str, Any] | msgspec.Struct

PAGE = 500
TIMEOUT = 30.0
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_APPLY = "application/apply-patch+yaml"


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T], frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[T] = []


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """A complete list, as of one resourceVersion."""

    items: list[T]
    resource_version: str
    unreadable: int = 0
    """Objects left out because they do not fit the view; the caller says so."""


_decoders: dict[type, Callable[[bytes | msgspec.Raw], Any]] = {}
_page_decoders: dict[type, Callable[[bytes], Any]] = {}


def decode_object(res: Resource[T], raw: bytes | msgspec.Raw) -> T:
    """Decode one object of this kind. Raises msgspec.DecodeError (ValidationError where only the view does not fit)."""
    decode = _decoders.get(res.type)
    if decode is None:
        decode = _decoders[res.type] = msgspec.json.Decoder(res.type).decode
    decoded: T = decode(raw)
    return decoded


def _decode_page(kind: Any, body: bytes) -> _Page[Any]:
    decode = _page_decoders.get(kind)
    if decode is None:
        decode = _page_decoders[kind] = msgspec.json.Decoder(_Page[kind]).decode
    page: _Page[Any] = decode(body)
    return page


class Client:
    """The verbs. Every method takes `timeout` in seconds and raises ApiError kinds and TransportError.

    `fence`, where set, is asked before every write: False raises NotLeader and nothing is sent.
    """

    def __init__(self, transport: Transport, fence: Callable[[], bool] | None = None) -> None:
        self.transport = transport
        self.fence = fence

    async def get(self, res: Resource[T], key: Key, *, timeout: float = TIMEOUT) -> T:
        """Read one object from the server. Raises NotFound."""
        path = res.path(key.namespace, key.name)
        return _decoded(res, await self.transport.request(Request("GET", path, "get", res.plural), timeout=timeout))

    async def list(
        self,
        res: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> list[T]:
        """Read all objects, page by page; `timeout` is for one page. Raises TransportError when one does not fit its view."""
        listing = await self.listing(res, namespace, label_selector, field_selector, timeout=timeout)
        if listing.unreadable:
            raise TransportError(f"{listing.unreadable} {res.plural} do not fit {res.type.__name__}")
        return listing.items

    async def listing(
        self,
        res: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> Listing[T]:
        """Read all objects with the resourceVersion from which a watch goes on.

        A list that expires between two pages starts again, unpaged.
        """
        query = _selectors(label_selector, field_selector)
        try:
            return await self._pages(res, namespace, query | {"limit": str(PAGE)}, timeout)
        except Gone:
            return await self._pages(res, namespace, query, timeout)

    def watch(
        self,
        res: Resource[T],
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        *,
        resource_version: str,
        server_seconds: int,
        open_timeout: float,
        silence: float,
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a watch with bookmarks; its lines are for `kubecore.reflector`, its only user.

        It must be answered within `open_timeout` seconds; the server ends it after `server_seconds`; `silence` seconds
        without a byte break it.
        """
        query = _selectors(label_selector, field_selector)
        query |= {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": resource_version}
        query["timeoutSeconds"] = str(server_seconds)
        path = f"{res.path(namespace)}?{urlencode(query)}"
        request = Request("GET", path, "watch", res.plural)
        return self.transport.stream(request, open_timeout=open_timeout, silence=silence)

    async def create(
        self, res: Resource[T], obj: Manifest, *, manager: str | None = None, timeout: float = TIMEOUT
    ) -> T:
        """POST a new object. Raises AlreadyExists."""
        path = res.path(_identity(obj).namespace) + self._query(manager)
        return await self._write(res, Request("POST", path, "create", res.plural, _body(res, obj)), timeout)

    async def apply(
        self,
        res: Resource[T],
        obj: Manifest,
        *,
        manager: str,
        force: bool = True,
        subresource: str | None = None,
        dry_run: bool = False,
        timeout: float = TIMEOUT,
    ) -> T:
        """Server-side apply: create, or own exactly the fields given. `force` takes fields over from other managers.

        With `metadata.uid` in `obj` only that very object is applied to (Conflict otherwise, also when it is gone). With
        `dry_run` nothing is stored: the answer says what would be, and an error why it would be refused.
        """
        path = self._object_path(res, _identity(obj), subresource) + self._query(manager, force, dry_run=dry_run)
        return await self._write(res, Request("PATCH", path, "apply", res.plural, _body(res, obj), _APPLY), timeout)

    async def patch(
        self,
        res: Resource[T],
        key: Key,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
        manager: str | None = None,
        timeout: float = TIMEOUT,
    ) -> T:
        """Merge patch (a mapping) or JSON patch (a list of operations). Raises NotFound, Invalid when a `test` fails."""
        kind = _MERGE if isinstance(patch, Mapping) else _JSON_PATCH
        path = self._object_path(res, key, subresource) + self._query(manager)
        request = Request("PATCH", path, "patch", res.plural, msgspec.json.encode(patch), kind)
        return await self._write(res, request, timeout)

    async def replace(
        self,
        res: Resource[T],
        obj: Manifest,
        *,
        subresource: str | None = None,
        manager: str | None = None,
        timeout: float = TIMEOUT,
    ) -> T:
        """PUT the whole object; with `metadata.resourceVersion` only over that version. Raises NotFound, Conflict.

        Give what you want stored: a narrow struct holds only the fields that we read, and the others would be removed.
        """
        path = self._object_path(res, _identity(obj), subresource) + self._query(manager)
        return await self._write(res, Request("PUT", path, "update", res.plural, _body(res, obj)), timeout)

    async def delete(
        self,
        res: Resource[T],
        key: Key,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: Propagation = "Background",
        grace_seconds: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Ask for deletion; an object that is gone already is success.

        Raises Conflict when its `uid` or `resource_version` is another one.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "gracePeriodSeconds": grace_seconds,
            "preconditions": {name: value for name, value in preconditions.items() if value} or None,
        }
        body = msgspec.json.encode({name: value for name, value in options.items() if value is not None})
        self._check_fence()
        path = res.path(key.namespace, key.name)
        try:
            await self.transport.request(Request("DELETE", path, "delete", res.plural, body), timeout=timeout)
        except NotFound:
            return

    async def evict(self, key: Key, *, grace_seconds: int | None = None, timeout: float = TIMEOUT) -> None:
        """Evict a pod (policy/v1); one that is gone already is success.

        Raises TooManyRequests while a disruption budget forbids it.
        """
        eviction: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": key.name, "namespace": key.namespace},
        }
        if grace_seconds is not None:
            eviction["deleteOptions"] = {"gracePeriodSeconds": grace_seconds}
        self._check_fence()
        path = f"/api/v1/namespaces/{key.namespace}/pods/{key.name}/eviction"
        body = msgspec.json.encode(eviction)
        try:
            await self.transport.request(Request("POST", path, "evict", "pods", body), timeout=timeout, retry=False)
        except NotFound:
            return

    async def _pages(
        self, res: Resource[T], namespace: str | None, query: dict[str, str], timeout: float
    ) -> Listing[T]:
        base = res.path(namespace)
        items: list[T] = []
        unreadable = 0
        while True:
            path = f"{base}?{urlencode(query)}" if query else base
            body = await self.transport.request(Request("GET", path, "list", res.plural), timeout=timeout)
            page, left_out = _readable(res, body)
            items += page.items
            unreadable += left_out
            if not page.metadata.continue_:
                return Listing(items, page.metadata.resource_version, unreadable)
            query = query | {"continue": page.metadata.continue_}

    async def _write(self, res: Resource[T], request: Request, timeout: float) -> T:
        self._check_fence()
        return _decoded(res, await self.transport.request(request, timeout=timeout))

    def _check_fence(self) -> None:
        if self.fence is not None and not self.fence():
            raise NotLeader("this process does not hold its lease: nothing is written")

    @staticmethod
    def _object_path(res: Resource[Any], key: Key, subresource: str | None) -> str:
        path = res.path(key.namespace, key.name)
        return f"{path}/{subresource}" if subresource else path

    def _query(self, manager: str | None, force: bool | None = None, *, dry_run: bool = False) -> str:
        manager = manager or self.transport.field_manager
        query = {"fieldManager": manager} if manager else {}
        if force is not None:
            query["force"] = "true" if force else "false"
        if dry_run:
            query["dryRun"] = "All"
        return f"?{urlencode(query)}" if query else ""


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: value for name, value in given.items() if value}


def _identity(obj: Manifest) -> Key:
    if isinstance(obj, Mapping):
        meta = obj["metadata"]
        return Key(meta.get("namespace") or "", meta.get("name") or "")
    meta = obj.metadata  # type: ignore[attr-defined] # every kind struct has one (contract of kaito_api.meta)
    return Key(meta.namespace, meta.name)


def _body(res: Resource[Any], obj: Manifest) -> bytes:
    """Encode, with apiVersion and kind in front where they are absent: structs do not store them."""
    if isinstance(obj, Mapping) and "kind" in obj:
        return msgspec.json.encode(obj)
    head = f'{{"apiVersion":"{res.api_version}","kind":"{res.kind}",'.encode()
    return head + msgspec.json.encode(obj)[1:]


def _decoded(res: Resource[T], body: bytes) -> T:
    try:
        return decode_object(res, body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportError(f"{res.kind} from the server does not fit our view: {error}") from error


def _readable(res: Resource[T], body: bytes) -> tuple[_Page[T], int]:
    """Decode a page; when one object does not fit its view the others are kept and it is counted."""
    try:
        return _decode_page(res.type, body), 0
    except msgspec.ValidationError:
        return _salvaged(res, body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportError(f"list of {res.plural} is not readable: {error}") from error


def _salvaged(res: Resource[T], body: bytes) -> tuple[_Page[T], int]:
    try:
        raw = _decode_page(msgspec.Raw, body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransportError(f"list of {res.plural} is not readable: {error}") from error
    items: list[T] = []
    for item in raw.items:
        try:
            items.append(decode_object(res, item))
        except msgspec.ValidationError:
            continue
    return _Page(raw.metadata, items), len(raw.items) - len(items)
