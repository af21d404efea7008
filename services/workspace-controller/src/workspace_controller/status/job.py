"""Pure: a tuning Job and what is known of its run to the conditions JobStarted and WorkspaceSucceeded, and to the state."""

from __future__ import annotations

import msgspec

from kaito_api.conditions import Reason
from kaito_api.workspace_status import CostEstimate, TuningState, TuningStatus, WorkspaceState
from workspace_controller.decision import Obstacle
from workspace_controller.failures import Failure
from workspace_controller.status.finding import Finding
from workspace_controller.status.tuning import Scene, refused_push
from workspace_controller.tuning.run import Run


class JobFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What the Job means for the Workspace."""

    started: Finding
    succeeded: Finding
    state: WorkspaceState

    def without_pod(self, why: Finding) -> JobFindings:
        """Return these findings of a Job that makes no pod; an obstacle is told before that."""
        pending = self.succeeded.reason == Reason.PENDING
        succeeded = Finding(ok=False, reason=Reason.PENDING, message=why.message) if pending else self.succeeded
        return JobFindings(started=why, succeeded=succeeded, state=self.state)


def judge_job(  # noqa: PLR0917 - the run, its pod, then what was made of them, then what surrounds it
    run: Run,
    seen: Scene,
    tuning: TuningStatus,
    failure: Failure | None,
    resource: Finding | None,
    obstacle: Obstacle | None,
    cost: CostEstimate | None,
) -> JobFindings:
    """Judge the Job of `run`. `resource` is ResourceReady, None where it does not matter any more."""
    job = run.job
    if job is None:
        return _waiting(run, resource, obstacle)
    if job.complete:
        return _complete(run, tuning)
    if job.failed:
        cause = failure.reason if failure is not None else Reason.JOB_FAILED
        text = tuning.message if cause is Reason.JOB_FAILED else f"{cause}: {tuning.message}"
        return JobFindings(
            started=Finding(ok=False, reason=cause, message=tuning.message),
            succeeded=Finding(ok=False, reason=Reason.FAILED, message=text),
            state=WorkspaceState.FAILED,
        )
    return _running(run, seen, tuning, failure, obstacle, cost)


def _waiting(run: Run, resource: Finding | None, obstacle: Obstacle | None) -> JobFindings:
    text = "The Job waits for its nodes."
    if resource is not None and resource.ok:
        text = "The Job starts."
    if run.stale is not None:
        text = "The Job of an earlier request is being removed."
    started = Finding(ok=False, reason=Reason.JOB_PENDING, message=text)
    succeeded = Finding(ok=False, reason=Reason.PENDING, message=text)
    if resource is not None and not resource.ok:
        succeeded = Finding(ok=False, reason=Reason.PENDING, message=resource.message)
    if obstacle is not None:
        succeeded = Finding(ok=False, reason=obstacle.reason, message=obstacle.message)
        started = succeeded if not obstacle.field.startswith("resource") else started
    return JobFindings(started=started, succeeded=succeeded, state=WorkspaceState.PENDING)


def _complete(run: Run, tuning: TuningStatus) -> JobFindings:
    started = Finding(ok=True, reason=Reason.JOB_STARTED, message="The Job is complete.")
    if run.dry:
        why = f"{tuning.message.rstrip('.')}. Remove the annotation to train."
        succeeded = Finding(ok=False, reason=Reason.DRY_RUN_DONE, message=why.removeprefix(". "))
        return JobFindings(started=started, succeeded=succeeded, state=WorkspaceState.PENDING)
    succeeded = Finding(ok=True, reason=Reason.SUCCEEDED, message=tuning.message)
    return JobFindings(started=started, succeeded=succeeded, state=WorkspaceState.SUCCEEDED)


def _running(  # noqa: PLR0917 - see judge_job
    run: Run,
    seen: Scene,
    tuning: TuningStatus,
    failure: Failure | None,
    obstacle: Obstacle | None,
    cost: CostEstimate | None,
) -> JobFindings:
    assert run.job is not None
    begun = seen.active != ""
    words = _words(tuning) if begun else "The Job's pod has not started yet."
    started = Finding(ok=begun, reason=Reason.JOB_STARTED if begun else Reason.JOB_PENDING, message=words)
    succeeded = Finding(ok=False, reason=Reason.PENDING, message=words)
    refused = refused_push(seen)
    if failure is not None:
        again = f"{failure.message} (attempt {tuning.attempt})" if tuning.attempt > 1 else failure.message
        started = Finding(ok=False, reason=failure.reason, message=again)
        succeeded = Finding(ok=False, reason=Reason.PENDING, message=again)
    elif refused:
        price = f"; the node is held and costs about {cost.per_hour} {cost.currency} an hour" if cost else ""
        succeeded = Finding(ok=False, reason=Reason.PUSH_FAILED, message=f"{refused}{price}")
    if obstacle is not None:
        text = f"{obstacle.message.rstrip('.')}. The Job that runs is left alone."
        succeeded = Finding(ok=False, reason=obstacle.reason, message=text)
    active = bool(run.job.status.active or run.job.status.ready)
    return JobFindings(
        started=started, succeeded=succeeded, state=WorkspaceState.RUNNING if active else WorkspaceState.PENDING
    )


def _words(tuning: TuningStatus) -> str:
    """Return in a sentence where the run stands."""
    if tuning.state != TuningState.TRAINING or not tuning.total_steps:
        return f"{tuning.state}: {tuning.message}" if tuning.message else f"{tuning.state}."
    parts = [f"step {tuning.step} of {tuning.total_steps}"]
    if tuning.loss:
        parts.append(f"loss {tuning.loss}")
    if tuning.eval_loss:
        parts.append(f"held-out loss {tuning.eval_loss}")
    if tuning.eta_seconds is not None:
        parts.append(f"about {max(1, round(tuning.eta_seconds / 60))} min left")
    return f"{tuning.state}: {', '.join(parts)}."
