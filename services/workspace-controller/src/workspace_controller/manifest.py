"""A desired object: its kind and its body as plain JSON, ready for the apiserver."""

from __future__ import annotations

from typing import Any

import msgspec

from kaito_api.meta import Key, Resource


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One desired object. `body` is never changed after it was planned; equal bodies mean equal desires."""

    resource: Resource[Any]
    body: dict[str, Any]

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The object's namespace, "" for cluster-scoped kinds."""
        return str(self.body["metadata"].get("namespace", ""))

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.namespace, self.name)


def manifest(resource: Resource[Any], metadata: dict[str, Any], **content: Any) -> Manifest:
    """Build a manifest of `resource` from its metadata and its top-level fields (`spec`, `rules`, ...)."""
    body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **content}
    return Manifest(resource=resource, body=body)
