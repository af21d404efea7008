"""Pure: StatefulSet, pods and reports to the condition InferenceReady."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kaito_api import labels
from kaito_api.conditions import Reason
from kaito_api.core import Node, Pod, StatefulSet
from kaito_api.report import Progress, Report, decode
from workspace_controller.failures import diagnose
from workspace_controller.rollout import pending
from workspace_controller.status.finding import Finding

SERVER: Final = "model-server"
WEIGHTS: Final = "weights"

_PENDING: Final = (
    " The operator would make them otherwise since it was upgraded or set anew: that waits until they are next made."
    f" The annotation {labels.UPGRADE_RESTART}: {labels.ALLOWED} restarts them now."
)
_REASONS: Final = {"Pulling": Reason.WEIGHTS_LOADING, "Loading": Reason.ENGINE_STARTING}


def judge_inference(
    statefulset: StatefulSet | None, replicas: int, pods: Sequence[Pod], nodes: Sequence[Node], resource: Finding
) -> Finding:
    """Judge the workload of `replicas` pods.

    `resource` is ResourceReady: a workload without its nodes is not ready whatever it says.
    """
    if statefulset is None:
        # Words that stay true once the workload is created: the creation itself is no news for the status.
        text = f"0 of {replicas} pod(s) ready." if resource.ok else "The workload waits for its nodes."
        return Finding(ok=False, reason=Reason.INFERENCE_PENDING, message=text)
    unready = [pod for pod in pods if not pod.metadata.deleting and not pod.ready]
    if _rolled_out(statefulset) and not unready:
        if resource.ok:
            text = f"{statefulset.spec.replicas} of {statefulset.spec.replicas} pod(s) ready."
            if pending(statefulset):
                text += _PENDING
            return Finding(ok=True, reason=Reason.INFERENCE_SUCCESS, message=text)
        return Finding(ok=False, reason=resource.reason, message=resource.message)
    failure = diagnose(pods, nodes)
    if failure is not None:
        return Finding(ok=False, reason=failure.reason, message=failure.message)
    return _progress(statefulset, pods)


def report_of(pod: Pod, container: str) -> Report | None:
    """Return the report that `container` last published on `pod`; None for none and for one that makes no sense."""
    text = pod.metadata.annotations.get(labels.report_annotation(container))
    return decode(text) if text is not None else None


def _rolled_out(statefulset: StatefulSet) -> bool:
    """Whether the counts are about the current spec, and every replica is ready and runs it, or may go on as it is."""
    status, replicas = statefulset.status, statefulset.spec.replicas
    if status.observed_generation < statefulset.metadata.generation or status.ready_replicas < replicas:
        return False
    return (
        status.current_revision == status.update_revision or status.updated_replicas >= replicas or pending(statefulset)
    )


def _progress(statefulset: StatefulSet, pods: Sequence[Pod]) -> Finding:
    """Say how far a workload is with which nothing is wrong."""
    replicas = statefulset.spec.replicas
    if 0 < statefulset.status.observed_generation < statefulset.metadata.generation:
        text = "The workload is rolling out the current spec."
        return Finding(ok=False, reason=Reason.INFERENCE_PENDING, message=text)
    ready = sum(pod.ready and not pod.metadata.deleting for pod in pods)
    count = f"{ready} of {replicas} pod(s) ready"
    for pod in sorted(pods, key=lambda pod: pod.metadata.name):
        if pod.metadata.deleting or pod.ready:
            continue
        for container in (SERVER, WEIGHTS):
            said = report_of(pod, container)
            if said is None or said.state not in _REASONS:
                continue
            detail = said.message or _amount(said.progress) or said.state
            text = f"{count}; {pod.metadata.name}: {detail}"
            return Finding(ok=False, reason=_REASONS[said.state], message=text)
    return Finding(ok=False, reason=Reason.INFERENCE_PENDING, message=f"{count}.")


def _amount(progress: Progress | None) -> str:
    if progress is None:
        return ""
    if not progress.total:
        return progress.phase
    return f"{progress.phase} {100 * progress.done // progress.total} %"
