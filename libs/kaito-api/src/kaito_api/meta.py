"""What every Kubernetes object shares: identity, metadata, conditions, and the descriptor of a kind."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import msgspec


class Key(NamedTuple):
    """Identity of an object within its kind. `namespace` is "" for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class OwnerReference(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """metav1.OwnerReference: the object whose deletion takes this one with it."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """metav1.ObjectMeta without managedFields and the fields that no service reads."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.namespace, self.name)

    @property
    def deleting(self) -> bool:
        """Whether deletion was requested; finalizers may still hold the object."""
        return self.deletion_timestamp is not None

    @property
    def controller(self) -> OwnerReference | None:
        """The one owner reference with `controller: true`, if any."""
        return next((ref for ref in self.owner_references if ref.controller), None)


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """metav1.Condition. `status` is "True", "False" or "Unknown"; `last_transition_time` has whole seconds, UTC."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: datetime | None = None


class Object(Protocol):
    """Anything with metadata: every kind struct of this package."""

    @property
    def metadata(self) -> ObjectMeta:
        """The object's metadata."""
        ...


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """Descriptor of one served kind: where it lives on the apiserver and which struct its bytes decode to."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: builtins.type[T]

    @property
    def api_version(self) -> str:
        """`group/version`, or only the version for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the URL path of the collection, or of one object where `name` is given.

        No namespace (None or "") means the cluster-wide collection. Raises ValueError for a namespace on a
        cluster-scoped kind and for a name without a namespace on a namespaced one.
        """
        if namespace and not self.namespaced:
            raise ValueError(f"{self.kind} is cluster-scoped: no namespace allowed, got {namespace!r}")
        if name and self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name!r} needs a namespace")
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=":"))
        return "/".join(parts)


def whole_seconds(moment: datetime) -> datetime:
    """Return `moment` in UTC without microseconds, as metav1.Time stores it. Raises ValueError for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no place in the API")
    return moment.astimezone(UTC).replace(microsecond=0)


def micro_time(moment: datetime) -> str:
    """Return metav1.MicroTime's only accepted spelling: exactly six decimals and Z (Lease times, Event eventTime)."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone has no place in the API")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
