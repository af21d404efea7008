"""Taking our own finalizer off an object, and nobody else's."""

from __future__ import annotations

from typing import Any, TypeVar

from kaito_api.meta import Object, Resource
from kubecore.client import Client
from kubecore.errors import Conflict, Invalid, NotFound

T = TypeVar("T", bound=Object)


async def remove_finalizer(client: Client, res: Resource[T], obj: T, finalizer: str) -> T | None:
    """Take our finalizer off and leave the others; None when the object is gone. Raises Conflict when the list changed."""
    meta = obj.metadata
    if finalizer not in meta.finalizers:
        return obj
    path = f"/metadata/finalizers/{meta.finalizers.index(finalizer)}"
    steps: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": path, "value": finalizer},
        {"op": "remove", "path": path},
    ]
    try:
        return await client.patch(res, meta.key, steps)
    except NotFound:
        return None
    except Invalid as error:  # one of the tests failed
        raise Conflict(409, "Conflict", f"{res.kind} {meta.key} changed since it was read: {error.message}") from error
