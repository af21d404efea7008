"""Pure: the history of a Workspace's spec as ControllerRevisions.

Each distinct spec has one revision, named after its hash and the Workspace's UID, so planning twice gives the same object, and
what is left of an earlier Workspace of the same name and spec is another one. Going back to an earlier spec raises that
revision's number instead of storing it again, as Kubernetes' own workloads do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kaito_api import labels
from kaito_api.core import ControllerRevision
from kaito_api.meta import Key
from kaito_api.resources import CONTROLLERREVISIONS
from kaito_api.workspace import Workspace
from workspace_controller.inference.metadata import owned_metadata
from workspace_controller.manifest import Manifest, manifest
from workspace_controller.naming import cut_with_hash, short_hash

HISTORY_LIMIT: Final = 10
"""Revisions kept per Workspace, the current one included."""
_NAME_MAX: Final = 253


class RevisionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which revision the spec is, and what to write so that the history says so."""

    number: int
    digest: str
    """SHA-256 of the spec in hexadecimal: the annotation `workspace.kaito.io/hash`."""
    create: Manifest | None = None
    renumber: Key | None = None
    """An earlier revision that holds this very spec and gets `number`."""
    surplus: tuple[ControllerRevision, ...] = ()
    """The oldest ones above the limit, to delete."""


def spec_of(workspace: Workspace) -> dict[str, Any]:
    """Return the whole spec as plain JSON values: resource, inference and tuning, absent ones left out."""
    parts = {"resource": workspace.resource, "inference": workspace.inference, "tuning": workspace.tuning}
    return {name: msgspec.to_builtins(part) for name, part in parts.items() if part is not None}


def digest_of(workspace: Workspace) -> str:
    """Return the SHA-256 of the whole spec, independent of the order of its keys."""
    return hashlib.sha256(msgspec.json.encode(spec_of(workspace), order="sorted")).hexdigest()


def plan_revision(workspace: Workspace, revisions: Sequence[ControllerRevision]) -> RevisionPlan:
    """Plan the history of `workspace`; `revisions` are the ones that it owns."""
    digest = digest_of(workspace)
    ordered = sorted(revisions, key=lambda revision: (revision.revision, revision.metadata.name))
    latest = ordered[-1].revision if ordered else 0
    current = next((r for r in ordered if r.metadata.annotations.get(labels.REVISION_HASH) == digest), None)
    if current is None:
        keep = HISTORY_LIMIT - 1
        return RevisionPlan(
            number=latest + 1,
            digest=digest,
            create=_manifest(workspace, digest, latest + 1),
            surplus=tuple(ordered[: max(0, len(ordered) - keep)]),
        )
    others = [revision for revision in ordered if revision is not current]
    surplus = tuple(others[: max(0, len(others) - (HISTORY_LIMIT - 1))])
    if current is ordered[-1]:
        return RevisionPlan(number=latest, digest=digest, surplus=surplus)
    return RevisionPlan(number=latest + 1, digest=digest, renumber=current.metadata.key, surplus=surplus)


def _manifest(workspace: Workspace, digest: str, number: int) -> Manifest:
    name = cut_with_hash(workspace.metadata.name, _NAME_MAX, f"-{short_hash(workspace.metadata.uid, digest)}")
    metadata = owned_metadata(workspace, name, {labels.REVISION_HASH: digest, labels.REVISION: str(number)})
    metadata["labels"] = {**metadata["labels"], labels.REVISION_OWNER: workspace.metadata.name}
    return manifest(CONTROLLERREVISIONS, metadata, data=spec_of(workspace), revision=number)
