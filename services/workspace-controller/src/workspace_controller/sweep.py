"""Removes claims whose Workspace is gone: the last guard against a machine that nobody uses and somebody pays.

The finalizer makes this rare (it was removed by hand, or the controller was not there when it mattered). A claim without
the UID of a Workspace was not made by this controller and is never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from kaito_api.meta import Key, Resource
from kaito_api.resources import WORKSPACES
from kubecore.client import Client
from kubecore.clock import Clock
from kubecore.errors import KubeError, NotFound
from workspace_controller.caches import Caches
from workspace_controller.claims import Claim, ClaimView, views

logger = logging.getLogger(__name__)


def orphans(claims: Iterable[Claim], living: frozenset[str]) -> tuple[ClaimView, ...]:
    """Return the claims that were made for a Workspace whose UID is not among the `living`. Pure."""
    found = [claim for claim in views(claims) if claim.workspace_uid and claim.workspace.name and not claim.deleting]
    return tuple(claim for claim in found if claim.workspace_uid not in living)


class Sweep:
    """Looks for orphaned claims every `period` seconds."""

    def __init__(self, client: Client, caches: Caches, resource: Resource[Any], clock: Clock, period: float) -> None:
        self._client = client
        self._caches = caches
        self._resource = resource
        self._clock = clock
        self._period = period

    async def run(self) -> None:
        """Sweep until cancelled. What the apiserver refuses is logged and tried again the next time."""
        while True:
            try:
                await self.once()
            except KubeError as error:
                logger.warning("sweep failed, trying again later", extra={"reason": str(error)})
            await self._clock.sleep(self._period)

    async def once(self) -> None:
        """Delete every orphaned claim, after a live look: a cache may lag behind a Workspace that has just been made."""
        living = frozenset(workspace.metadata.uid for workspace in self._caches.workspaces.list())
        for claim in orphans(self._caches.claims.list(), living):
            if await self._lives(claim.workspace, claim.workspace_uid):
                continue
            await self._client.delete(self._resource, claim.key, uid=claim.uid)
            logger.warning(
                "orphaned claim deleted",
                extra={"claim": claim.key.name, "workspace": str(claim.workspace), "uid": claim.workspace_uid},
            )

    async def _lives(self, key: Key, uid: str) -> bool:
        try:
            workspace = await self._client.get(WORKSPACES, key)
        except NotFound:
            return False
        return workspace.metadata.uid == uid
