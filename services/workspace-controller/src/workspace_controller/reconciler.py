"""One reconcile of one Workspace: observe, plan, apply, report.

Level-based: it looks at what is, never at what happened. Everything that decides is in `plan`; everything that writes is
in `applier`. What remains here is the order, and what a refused write means for the user.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from kaito_api.conditions import Reason
from kaito_api.meta import Key
from kaito_api.resources import WORKSPACES
from kaito_api.workspace import Workspace
from kubecore.clock import Clock
from kubecore.controller import Result
from kubecore.errors import ApiError, Forbidden, Invalid, NotFound, ServerError
from kubecore.events import EventRecorder
from workspace_controller.applier import Applier, ClaimRefused, Stranger
from workspace_controller.catalog import Catalog
from workspace_controller.decision import Decision, Notice
from workspace_controller.metrics import Metrics
from workspace_controller.observe import Observer
from workspace_controller.observed import Observed
from workspace_controller.plan import plan
from workspace_controller.plan_error import plan_errors
from workspace_controller.recent import TTL, Recent
from workspace_controller.settings import Settings
from workspace_controller.status import with_error
from workspace_controller.traces import Traces

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 3
"""Plans in one reconcile: a stranger under a needed name is met while applying, and the plan is made again."""
_VANISHED_RETRY: Final = 1.0
_WEBHOOK_DOWN: Final = "failed calling webhook"
"""How the apiserver begins to tell of it (apiserver's admission webhooks, ErrCallingWebhook): a 500 of its own."""


class Reconciler:
    """Brings one Workspace a step nearer to its spec."""

    def __init__(
        self,
        *,
        observer: Observer,
        applier: Applier,
        recorder: EventRecorder,
        recent: Recent,
        catalog: Catalog,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        traces: Traces | None = None,
    ) -> None:
        self._observer = observer
        self._applier = applier
        self._recorder = recorder
        self._recent = recent
        self._catalog = catalog
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._traces = traces

    async def reconcile(self, key: Key) -> Result | None:
        """Reconcile the Workspace `key`; raises what the apiserver refuses, for the queue to retry."""
        for _ in range(_ATTEMPTS):
            workspace = self._observer.workspace(key)
            if workspace is None:
                self._recent.forget(key)
                return None
            observed = self._observer.observe(workspace)
            decision = plan(observed, self._catalog, self._settings, self._clock.now())
            try:
                decision = await self._carry_out(observed, decision)
            except Stranger as stranger:
                logger.info("a needed name is taken", extra={"object": str(stranger)})
                continue
            except NotFound:
                # The Workspace or its namespace went away under us; the watch is about to say so.
                return Result(requeue_after=_VANISHED_RETRY)
            return self._result(key, decision)
        return Result(requeue_after=_VANISHED_RETRY)

    async def _carry_out(self, observed: Observed, decision: Decision) -> Decision:
        """Write everything; return what is decided now that it stands."""
        try:
            await self._applier.apply(observed, decision)
        except (ClaimRefused, ApiError) as error:
            if _lasts(error):
                await self._report_refusal(observed, decision, error)
            raise
        if decision.applies:
            observed, decision = self._after_apply(observed, decision)
        await self._write_status(observed, decision)
        self._say(observed.workspace, decision.notices)
        await self._applier.finish(observed.workspace, decision)
        return decision

    def _after_apply(self, observed: Observed, decision: Decision) -> tuple[Observed, Decision]:
        """Judge by the workload as it was stored: only the apiserver knows whether the apply rolls its pods.

        What is observed then is what the new status speaks of: pods may have come while the apply was under way.
        """
        stored = self._observer.observe(observed.workspace)
        fresh = plan(stored, self._catalog, self._settings, self._clock.now())
        return stored, msgspec.structs.replace(decision, status=fresh.status, requeue_after=fresh.requeue_after)

    async def _report_refusal(self, observed: Observed, decision: Decision, error: Exception) -> None:
        """Tell the user what the apiserver refuses; the queue tries again, with growing pauses."""
        workspace = observed.workspace
        planned = decision.status or workspace.status
        generation = workspace.metadata.generation
        told = with_error(planned, workspace.status, str(error), Reason.WRITE_REFUSED, generation, self._clock.now())
        if told != workspace.status:
            await self._write_status(observed, msgspec.structs.replace(decision, status=told))
        if isinstance(error, ClaimRefused):
            self._say(workspace, (Notice(type="Warning", reason="NodeClaimCreationFailed", message=str(error)),))

    async def _write_status(self, observed: Observed, decision: Decision) -> None:
        await self._applier.write_status(observed.workspace, decision)
        if decision.status is None:
            return
        now = self._clock.now()
        self._metrics.told(observed.workspace, decision.status, now)
        self._metrics.compared(plan_errors(observed, decision.status, self._catalog))
        if self._traces is not None:
            self._traces.told(observed, decision.status, now)

    def _say(self, workspace: Workspace, notices: tuple[Notice, ...]) -> None:
        for notice in notices:
            self._recorder.record(workspace, WORKSPACES, notice.type, notice.reason, notice.message)

    def _result(self, key: Key, decision: Decision) -> Result | None:
        if decision.blocked_on:
            logger.debug("waiting", extra={"blocked_on": decision.blocked_on})
        waits = [decision.requeue_after] if decision.requeue_after is not None else []
        if self._recent.strangers(key):
            waits.append(TTL)
        return Result(requeue_after=min(waits)) if waits else None


def _lasts(error: ClaimRefused | ApiError) -> bool:
    """Whether the answer is the same until somebody acts, so that the user has to hear of it."""
    down = isinstance(error, ServerError) and _WEBHOOK_DOWN in error.message
    return down or isinstance(error, ClaimRefused | Forbidden | Invalid)
