"""What a plan decides: plain data that a test can compare and the applier carries out in a fixed order."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from kaito_api.meta import Key, Resource
from kaito_api.workspace_status import WorkspaceStatus
from workspace_controller.manifest import Manifest


class Finalizer(StrEnum):
    """What to do about our finalizer."""

    KEEP = "keep"
    ADD = "add"
    REMOVE = "remove"


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """One deletion. The UID is a precondition: a namesake that came in between is left alone."""

    resource: Resource[Any]
    key: Key
    uid: str
    propagation: Literal["Background", "Foreground", "Orphan"] = "Background"


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """One merge patch of an object that was created by POST; its lists are replaced as wholes."""

    resource: Resource[Any]
    key: Key
    body: dict[str, Any]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One Event about the Workspace."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing further can be done until somebody acts or something arrives. Shown in the conditions."""

    reason: str
    message: str
    field: str = ""
    """The part of the spec that it is about (`resource`, `inference`, `tuning`), "" for all of it."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one reconcile does, in the order in which it is done."""

    finalizer: Finalizer = Finalizer.KEEP
    annotations: dict[str, str] = {}
    """Annotations of the Workspace that are to be set; they travel with the finalizer where both change."""
    deletes: tuple[Delete, ...] = ()
    creates: tuple[Manifest, ...] = ()
    """Namespaced objects to POST."""
    patches: tuple[Patch, ...] = ()
    trials: tuple[Manifest, ...] = ()
    """Workloads that the apiserver is only asked about (a dry run), before a claim buys a machine for them."""
    claims: tuple[Manifest, ...] = ()
    """Claims to POST, once the namespaced objects stand: a Workspace that its namespace refuses must not buy a GPU."""
    applies: tuple[Manifest, ...] = ()
    """Objects to apply (server-side), after a live look where none is known."""
    history: tuple[Manifest, ...] = ()
    """ControllerRevisions to POST, last: nothing waits for them."""
    status: WorkspaceStatus | None = None
    """The whole status, where it differs from the stored one."""
    notices: tuple[Notice, ...] = ()
    """Said after the status is written."""
    requeue_after: float | None = None
    blocked_on: str = ""
    """What the Workspace waits for, in one word, for logs and metrics."""
