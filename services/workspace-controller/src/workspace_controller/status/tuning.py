"""Pure: Job, pods and reports to status.tuning."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from kaito_api import labels
from kaito_api.core import ContainerStatus, Job, Pod
from kaito_api.meta import whole_seconds
from kaito_api.report import OutputReport, Report, TuningReport, decode
from kaito_api.workspace import DataDestination
from kaito_api.workspace_status import TuningOutput, TuningState, TuningStatus
from workspace_controller.failures import Failure, cut
from workspace_controller.tuning.run import Run
from workspace_controller.tuning.steps import CHECK, DATA, PACKAGER, TUNER, WEIGHTS

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MESSAGE_LIMIT: Final = 1024
_OURS: Final = frozenset({CHECK, WEIGHTS, DATA, TUNER, PACKAGER})
_BEFORE: Final = {CHECK: TuningState.CHECKING, WEIGHTS: TuningState.FETCHING, DATA: TuningState.FETCHING}
_OF_TUNER: Final = frozenset(
    {TuningState.FETCHING, TuningState.CHECKING, TuningState.TRAINING, TuningState.SAVING, TuningState.DONE}
)


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """The pod that counts: the newest of the Job, and what its containers say."""

    pod: Pod | None = None
    active: str = ""
    """The container that works or has failed; "" before the first one starts."""
    reports: dict[str, Report] = {}

    def report(self, container: str) -> Report | None:
        """Return what that container said last."""
        return self.reports.get(container)

    @property
    def told(self) -> Report | None:
        """What the active container said last."""
        return self.reports.get(self.active)


def scene(job: Job | None, pods: Sequence[Pod]) -> Scene:
    """Return the scene of the Job's newest pod."""
    mine = [pod for pod in pods if job is not None and _owner(pod) == job.metadata.uid]
    pod = max(mine, key=_age, default=None)
    if pod is None:
        return Scene()
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    begun = [each for each in statuses if each.state.running is not None or each.state.terminated is not None]
    reports = {each.name: said for each in statuses if (said := _said(pod, each)) is not None}
    # A mesh or an agent may have put containers of its own beside ours.
    telling = [each for each in begun if each.name in _OURS] or begun
    return Scene(pod=pod, active=telling[-1].name if telling else "", reports=reports)


def fold_tuning(
    run: Run, seen: Scene, stored: TuningStatus | None, output: DataDestination | None, failure: Failure | None
) -> TuningStatus:
    """Return status.tuning; what was known of the same run stays where nothing newer is said."""
    known = stored if stored is not None and stored.run == run.name else TuningStatus(run=run.name)
    said = seen.report(TUNER)
    figures = _figures(said.tuning) if said is not None and said.tuning is not None else {}
    told = seen.told
    status = msgspec.structs.replace(
        known,
        state=state_of(run, seen),
        attempt=max(known.attempt, _attempt(run.job)),
        output=_output(seen.report(PACKAGER), output) or known.output,
        updated_at=whole_seconds(told.at) if told is not None else known.updated_at,
        **figures,
    )
    message = _message(run, seen, status, output, failure)
    return msgspec.structs.replace(status, message=cut(message, _MESSAGE_LIMIT), progress=_progress(status, told))


def state_of(run: Run, seen: Scene) -> TuningState:
    """Return where the run stands."""
    job = run.job
    if job is None:
        return TuningState.PENDING
    if job.complete:
        return TuningState.DRY_RUN_DONE if run.dry else TuningState.DONE
    if job.failed:
        return TuningState.FAILED
    if seen.active == PACKAGER:
        return TuningState.PUSHING
    if seen.active == TUNER:
        said = seen.report(TUNER)
        found = next((state for state in _OF_TUNER if said is not None and said.state == state), TuningState.CHECKING)
        return TuningState.SAVING if found is TuningState.DONE else found
    return _BEFORE.get(seen.active, TuningState.PENDING)


def refused_push(seen: Scene) -> str:
    """Return what the packager says about a push that is refused and tried again, "" where there is no such thing."""
    said = seen.report(PACKAGER)
    if seen.active != PACKAGER or said is None or not said.reason or said.state == TuningState.DONE:
        return ""
    return said.message or said.reason


def _message(
    run: Run, seen: Scene, status: TuningStatus, output: DataDestination | None, failure: Failure | None
) -> str:
    if status.state == TuningState.DONE:
        if status.output is not None:
            return f"The adapter is {status.output.image}."
        return "The adapter was pushed." if output is not None and output.image else "The adapter is on the volume."
    if status.state == TuningState.DRY_RUN_DONE:
        said = seen.report(TUNER)
        return said.message if said is not None else status.message
    if status.state == TuningState.FAILED:
        told = failure.message if failure is not None else _job_message(run.job) or status.message
        return f"{told.rstrip('.')}. {_what_is_left(seen, output, status.checkpoint)}".strip()
    if failure is not None:
        return failure.message
    return seen.told.message if seen.told is not None else ""


def _what_is_left(seen: Scene, output: DataDestination | None, checkpoint: str) -> str:
    """Return what can be saved of a run whose push was refused for good, and how any run is tried again.

    `checkpoint` is an image where the tuner has put the finished adapter into the registry, beside the output.
    """
    if output is None:
        return ""
    if seen.active == PACKAGER and output.volume_source:
        return "The adapter is whole on the output volume: push it with `adapter-packager push`, or delete the Job to try again."
    if seen.active == PACKAGER and "/" in checkpoint:
        return (
            f"The adapter is kept in {checkpoint}: correct the cause and delete the Job; the next one only pushes it."
        )
    if seen.active == PACKAGER:
        return "The adapter was only in the pod and is lost; correct the cause and delete the Job to train it again."
    if output.volume_source:
        return "Correct the cause and delete the Job: the next one goes on from the last whole checkpoint on the output volume."
    return "Correct the cause and delete the Job to try again."


def _job_message(job: Job | None) -> str:
    condition = job.condition("Failed") if job is not None else None
    return condition.message if condition is not None else ""


def _progress(status: TuningStatus, told: Report | None) -> str:
    if status.state == TuningState.TRAINING and status.total_steps:
        return f"{100 * status.step // status.total_steps}% ({status.step}/{status.total_steps})"
    moved = told.progress if told is not None else None
    if moved is not None and moved.total and status.state in {TuningState.FETCHING, TuningState.PUSHING}:
        return f"{status.state} {min(100, 100 * moved.done // moved.total)}%"
    return str(status.state)


def _figures(said: TuningReport) -> dict[str, object]:
    return {
        "step": said.step,
        "total_steps": said.total_steps,
        "epoch": _decimal(said.epoch, 2),
        "loss": _decimal(said.loss, 4),
        "eval_loss": _decimal(said.eval_loss, 4),
        "tokens_per_second": _decimal(said.tokens_per_second or None, 1),
        "eta_seconds": said.eta_seconds,
        "peak_memory_bytes": said.peak_memory_bytes,
        "checkpoint": said.checkpoint[:253],
    }


def _decimal(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _output(said: Report | None, wanted: DataDestination | None) -> TuningOutput | None:
    """Return the pushed image by its digest. The repository is the spec's: a pod may tell only what it pushed there."""
    pushed: OutputReport | None = said.output if said is not None else None
    if pushed is None or wanted is None or not wanted.image or not _DIGEST.fullmatch(pushed.digest):
        return None
    folder, slash, last = wanted.image.rpartition("/")
    repository = f"{folder}{slash}{last.partition(':')[0]}"
    return TuningOutput(image=f"{repository}@{pushed.digest}", digest=pushed.digest, size_bytes=pushed.size_bytes)


def _attempt(job: Job | None) -> int:
    if job is None:
        return 0
    return max(1, job.status.failed + (0 if job.failed else 1))


def _said(pod: Pod, container: ContainerStatus) -> Report | None:
    """Return the last report of a container: the one in its termination log outlives the annotation."""
    ended = container.state.terminated
    last = decode(ended.message) if ended is not None else None
    text = pod.metadata.annotations.get(labels.report_annotation(container.name))
    return last or (decode(text) if text is not None else None)


def _owner(pod: Pod) -> str:
    owner = pod.metadata.controller
    return owner.uid if owner is not None else ""


def _age(pod: Pod) -> tuple[bool, float, str]:
    created = pod.metadata.creation_timestamp
    return (not pod.metadata.deleting, created.timestamp() if created is not None else 0.0, pod.metadata.name)
