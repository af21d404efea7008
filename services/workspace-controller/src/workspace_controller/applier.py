"""Carries out a Decision, in the order in which it is safe: finalizer, deletions and children, claims, workload, status.

Independent writes of one step go out together; a step that fails stops the later ones. What the apiserver answers goes
straight into the caches, so that the next reconcile sees it before the watch brings it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from kaito_api import labels
from kaito_api.meta import Object
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace
from kubecore.client import Client
from kubecore.errors import AlreadyExists, Forbidden, Invalid, KubeError, NotFound, NotServed
from kubecore.finalizers import remove_finalizer
from workspace_controller.caches import Caches
from workspace_controller.decision import Decision, Delete, Finalizer, Patch
from workspace_controller.manifest import Manifest
from workspace_controller.observed import ChildId, Observed
from workspace_controller.recent import Recent
from workspace_controller.status.patch import status_patch

MANAGER: Final = "workspace-controller"
"""Field manager of the objects that are applied."""
REFUSED: Final = (Forbidden, Invalid)
"""Answers that stay the same until somebody acts: they are shown to the user."""
_NO_DRY_RUN: Final = "does not support dry run"
"""How the apiserver says so (apiserver's admission webhooks, NewDryRunUnsupportedErr)."""


class Stranger(Exception):  # noqa: N818 - not a failure: the plan is made again with what was found
    """An object of somebody else's was found under a name that we need. Nothing was changed."""


class ClaimRefused(Exception):  # noqa: N818 - carries a refusal
    """The apiserver refuses a claim; the cause says why."""


class Applier:
    """Writes to the apiserver. Everything is idempotent: a Decision that was cut short is simply made again."""

    def __init__(self, client: Client, caches: Caches, recent: Recent) -> None:
        self._client = client
        self._caches = caches
        self._recent = recent

    async def apply(self, observed: Observed, decision: Decision) -> None:
        """Carry out everything but the status, the notices and the history.

        Raises Stranger, ClaimRefused, and what the client raises.
        """
        workspace = observed.workspace
        if decision.finalizer is Finalizer.ADD or decision.annotations:
            await self._mark(workspace, decision)
        await _together(
            *(self._delete(workspace, step) for step in decision.deletes),
            *(self._create(workspace, manifest) for manifest in decision.creates),
            *(self._patch(step) for step in decision.patches),
            *(self._try(manifest) for manifest in decision.trials),
        )
        await _together(*(self._claim(workspace, manifest) for manifest in decision.claims))
        await _together(*(self._apply(observed, manifest) for manifest in decision.applies))

    async def finish(self, workspace: Workspace, decision: Decision) -> None:
        """Write what nothing waits for: the history, and the removal of the finalizer."""
        await _together(*(self._create(workspace, manifest) for manifest in decision.history))
        if decision.finalizer is Finalizer.REMOVE:
            await remove_finalizer(self._client, WORKSPACES, workspace, labels.WORKSPACE_FINALIZER)

    async def write_status(self, workspace: Workspace, decision: Decision) -> None:
        """Write `decision.status`. The UID in the patch keeps it off a namesake that came in between."""
        if decision.status is None:
            return
        body = {"metadata": {"uid": workspace.metadata.uid}, "status": status_patch(workspace.status, decision.status)}
        written = await self._client.patch(WORKSPACES, workspace.metadata.key, body, subresource="status")
        self._caches.workspaces.record(written)

    async def _mark(self, workspace: Workspace, decision: Decision) -> None:
        """Add our finalizer and the revision's annotations in one write.

        The list of finalizers carries the version that it was read at, or an entry that somebody adds now would be lost.
        """
        meta = workspace.metadata
        metadata: dict[str, Any] = {"uid": meta.uid}
        if decision.annotations:
            metadata["annotations"] = decision.annotations
        if decision.finalizer is Finalizer.ADD:
            metadata["resourceVersion"] = meta.resource_version
            metadata["finalizers"] = [*meta.finalizers, labels.WORKSPACE_FINALIZER]
        self._caches.workspaces.record(await self._client.patch(WORKSPACES, meta.key, {"metadata": metadata}))

    async def _create(self, workspace: Workspace, manifest: Manifest) -> None:
        """POST a namespaced object; one that exists is taken in, whosever it is, and the plan judges it."""
        informer = self._caches.of(manifest.resource)
        try:
            informer.record(await self._client.create(manifest.resource, manifest.body))
        except AlreadyExists:
            found: Object = await self._client.get(manifest.resource, manifest.key)
            self._take_in(workspace, manifest, found)

    async def _try(self, manifest: Manifest) -> None:
        """Ask whether a workload would be taken. A webhook that takes no part in dry runs leaves that open."""
        try:
            await self._client.apply(manifest.resource, manifest.body, manager=MANAGER, dry_run=True)
        except Invalid as error:
            if _NO_DRY_RUN not in error.message:
                raise

    async def _claim(self, workspace: Workspace, manifest: Manifest) -> None:
        """POST a claim. Its name is a function of UID, slot and attempt: one that exists is this very claim."""
        try:
            written = await self._client.create(manifest.resource, manifest.body)
        except AlreadyExists:
            written = await self._client.get(manifest.resource, manifest.key)
            if written.metadata.annotations.get(labels.WORKSPACE_UID) != workspace.metadata.uid:
                raise
        except (*REFUSED, NotServed) as error:
            raise ClaimRefused(f"{manifest.resource.kind} {manifest.name}: {error}") from error
        self._caches.of(manifest.resource).record(written)

    async def _apply(self, observed: Observed, manifest: Manifest) -> None:
        """Apply a workload. Where none is known a live look comes first: an apply would merge into a stranger's object."""
        workspace = observed.workspace
        known = observed.child(manifest.resource, manifest.name)
        if known is None:
            known = await self._live(manifest)
            if known is not None:
                self._take_in(workspace, manifest, known)
        body = manifest.body
        if known is not None:
            body = {**body, "metadata": {**body["metadata"], "uid": known.metadata.uid}}
        written = await self._client.apply(manifest.resource, body, manager=MANAGER)
        self._recent.applied(workspace.metadata.key, written)
        self._caches.of(manifest.resource).record(written)

    async def _live(self, manifest: Manifest) -> Object | None:
        try:
            found: Object = await self._client.get(manifest.resource, manifest.key)
        except NotFound:
            return None
        return found

    async def _patch(self, step: Patch) -> None:
        written = await self._client.patch(step.resource, step.key, step.body)
        self._caches.of(step.resource).record(written)

    async def _delete(self, workspace: Workspace, step: Delete) -> None:
        key = workspace.metadata.key
        if self._recent.deletion_asked(key, step.uid):
            return
        await self._client.delete(step.resource, step.key, uid=step.uid, propagation=step.propagation)
        self._recent.deleted(key, step.uid)

    def _take_in(self, workspace: Workspace, manifest: Manifest, found: Object) -> None:
        """Take in an object that we did not know. Raises Stranger where it is not the Workspace's own."""
        owner = found.metadata.controller
        if owner is not None and owner.uid == workspace.metadata.uid:
            self._caches.of(manifest.resource).record(found)
            return
        self._recent.met(workspace.metadata.key, ChildId(manifest.resource.plural, manifest.name), found)
        raise Stranger(f"{manifest.resource.kind} {manifest.key}")


async def _together(*steps: Awaitable[None]) -> None:
    """Run the writes of one step at once. All of them end before the first error is raised: none is left half known."""
    if len(steps) < 2:
        for step in steps:
            await step
        return
    errors: list[Exception] = []
    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(_caught(step, errors))
    if errors:
        # What a stranger occupies explains more than what failed beside it.
        raise min(errors, key=lambda error: not isinstance(error, Stranger))


async def _caught(step: Awaitable[None], errors: list[Exception]) -> None:
    try:
        await step
    except (KubeError, Stranger, ClaimRefused) as error:
        errors.append(error)
