"""Pure: the pods of a workload to the one reason that explains best why they do not serve.

Two sources speak. Our own containers say on their way out what is wrong (exit code and report, the pods' contract);
kubelet, scheduler and container runtime say the rest. Priorities are KAITO's; a container's own words come before
everything that kubelet can only infer from outside, except that the kernel killed it. Which process the kernel takes at a
memory limit is chance, or the node's setting (memory.oom.group): where ours outlives it and says so, that is the same failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

from kaito_api import labels, report
from kaito_api.conditions import Reason
from kaito_api.core import ContainerStatus, Node, Pod, Terminated
from workspace_controller.tuning import exits as tuning_exits

MESSAGE_LIMIT: Final = 256
"""Characters of a failure's message (KAITO's limit)."""

EXIT_REASONS: Final = {
    64: Reason.CONFIG_INVALID,
    65: Reason.CONFIG_INVALID,
    66: Reason.WEIGHTS_MISSING,
    67: Reason.WEIGHTS_INVALID,
    68: Reason.ENGINE_LACKS_GPU,
    69: Reason.REGISTRY_UNAVAILABLE,
    70: Reason.ENGINE_FAILED,
    71: Reason.OUT_OF_MEMORY,
    72: Reason.ACCESS_DENIED,
    73: Reason.REGISTRY_UNTRUSTED,
}
"""Exit codes of the model-server image. A code outside the table says nothing about the cause."""

_IMAGE_PULL: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_START_ERROR: Final = frozenset(
    {
        "CreateContainerConfigError",
        "PreCreateHookError",
        "CreateContainerError",
        "PreStartHookError",
        "RunContainerError",
        "PostStartHookError",
    }
)
_OUR_REASONS: Final = frozenset(
    {*EXIT_REASONS.values(), Reason.API_KEYS_MISSING, Reason.WAITING_FOR_ACCESS, Reason.CONTAINER_OOM_KILLED}
).union(*(table.values() for table in tuning_exits.REASONS.values()))


class Rank(IntEnum):
    """Urgency of a failure: the lowest one of all pods is shown."""

    OOM_KILLED = 0
    OWN_WORDS = 1
    IMAGE_PULL = 2
    START_ERROR = 3
    CRASH = 4
    EVICTED = 5
    UNSCHEDULABLE = 6


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a pod does not serve. `message` names the pod and says what to do where that is known."""

    rank: Rank
    reason: Reason
    message: str


def diagnose(pods: Iterable[Pod], nodes: Iterable[Node] = ()) -> Failure | None:
    """Return the most urgent failure of `pods`, or None. `nodes` tell disk from memory pressure after an eviction.

    A pod that is being deleted or is ready has no failure: what happened before is history.
    """
    by_name = {node.metadata.name: node for node in nodes}
    found = [
        failure
        for pod in sorted(pods, key=lambda pod: pod.metadata.name)
        if not pod.metadata.deleting and not pod.ready
        for failure in _of_pod(pod, by_name.get(pod.spec.node_name))
    ]
    return min(found, key=lambda failure: failure.rank, default=None)


def fails_to_start(pods: Iterable[Pod]) -> bool:
    """Whether the workload fails before a container of any of its pods ever ran: other pods would interrupt nothing."""
    staying = [pod for pod in pods if not pod.metadata.deleting]
    return not any(_ran(pod) for pod in staying) and diagnose(staying) is not None


def _ran(pod: Pod) -> bool:
    return any(
        container.restart_count
        or container.state.running
        or container.state.terminated
        or container.last_state.terminated
        for container in pod.status.container_statuses
    )


def _of_pod(pod: Pod, node: Node | None) -> Iterator[Failure]:
    for container in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        yield from _of_container(pod, container)
    if pod.status.phase == "Failed" and pod.status.reason == "Evicted":
        yield _failure(Rank.EVICTED, _pressure(pod, node), pod, "", pod.status.message or "evicted")
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.status == "False" and scheduled.reason == "Unschedulable":
        yield _failure(Rank.UNSCHEDULABLE, Reason.UNSCHEDULABLE, pod, "", scheduled.message)


def _of_container(pod: Pod, container: ContainerStatus) -> Iterator[Failure]:
    ended = container.state.terminated or container.last_state.terminated
    name = container.name
    # An init container that ended well and a container that is ready again are no failures.
    failed = ended is not None and (ended.exit_code != 0 or ended.reason == "OOMKilled") and not container.ready
    if ended is not None and failed:
        yield from _of_end(pod, name, ended)
    yield from _of_live_report(pod, name)
    waiting = container.state.waiting
    if waiting is None:
        return
    if waiting.reason in _IMAGE_PULL:
        yield _failure(Rank.IMAGE_PULL, Reason.IMAGE_PULL_ERROR, pod, name, waiting.message or waiting.reason)
    elif waiting.reason in _START_ERROR:
        yield _failure(Rank.START_ERROR, Reason.CONTAINER_START_ERROR, pod, name, waiting.message or waiting.reason)
    elif waiting.reason == "CrashLoopBackOff" and not failed:
        text = f"restarted {container.restart_count} times; {waiting.message}"
        yield _failure(Rank.CRASH, Reason.CONTAINER_CRASH_LOOP_BACK_OFF, pod, name, text)


def _of_end(pod: Pod, name: str, ended: Terminated) -> Iterator[Failure]:
    """Yield what a container's end says, by the kernel, by its own report, by its exit code."""
    said = report.decode(ended.message)
    reason = _own_reason(name, ended.exit_code, said)
    text = said.message if said is not None else ended.message
    if ended.reason == "OOMKilled" or reason is Reason.CONTAINER_OOM_KILLED:
        advice = text if reason is Reason.CONTAINER_OOM_KILLED else ""
        yield _failure(Rank.OOM_KILLED, Reason.CONTAINER_OOM_KILLED, pod, name, _memory(pod, name, ended, advice))
        return
    if reason is not None:
        yield _failure(Rank.OWN_WORDS, reason, pod, name, text or f"exit code {ended.exit_code}")
        return
    detail = f"exit code {ended.exit_code}" + (f": {text.strip()}" if text.strip() else "")
    yield _failure(Rank.CRASH, Reason.CONTAINER_CRASH_LOOP_BACK_OFF, pod, name, f"terminated with {detail}")


def _memory(pod: Pod, name: str, ended: Terminated, said: str) -> str:
    """Return whose memory ran out and what to do: in the container's own words where it could still `said` some."""
    limit = pod.memory_limit(name)
    what = f"exceeded its memory limit of {limit}" if limit else "was killed because its node ran out of memory"
    advice = "raise the limit, or take" if limit else "take"
    return f"{what} (exit code {ended.exit_code}): {said or f'{advice} a larger instance type or a smaller model'}"


def _of_live_report(pod: Pod, name: str) -> Iterator[Failure]:
    """Yield what a container that still runs says about itself (it may retry in place)."""
    text = pod.metadata.annotations.get(labels.report_annotation(name))
    said = report.decode(text) if text is not None else None
    if said is None or said.state != "Failed":
        return
    reason = _known(said.reason)
    if reason is not None and name not in tuning_exits.REASONS:  # those end when they fail, and their code says more
        yield _failure(Rank.OWN_WORDS, reason, pod, name, said.message or said.reason)


def _own_reason(name: str, code: int, said: report.Report | None) -> Reason | None:
    """Return what a container says by its exit code and its report; the codes of a tuning Job's containers are their own."""
    known = _known(said.reason) if said is not None else None
    if name not in tuning_exits.REASONS:
        return known or EXIT_REASONS.get(code)
    reason = tuning_exits.REASONS[name].get(code)
    return known if reason is Reason.OUT_OF_MEMORY and known is Reason.CONTAINER_OOM_KILLED else reason


def _known(reason: str) -> Reason | None:
    """Return the reason where a pod may give it; a pod cannot put any word it likes into a condition."""
    return next((known for known in _OUR_REASONS if known == reason), None)


def _pressure(pod: Pod, node: Node | None) -> Reason:
    """Return the pressure that the eviction's message or the node's conditions name."""
    text = pod.status.message.lower()
    for reason, word, condition in (
        (Reason.NODE_DISK_PRESSURE, "ephemeral-storage", "DiskPressure"),
        (Reason.NODE_MEMORY_PRESSURE, "memory", "MemoryPressure"),
    ):
        pressed = node.condition(condition) if node is not None else None
        if word in text or condition.lower() in text or (pressed is not None and pressed.status == "True"):
            return reason
    return Reason.POD_EVICTED


def _failure(rank: Rank, reason: Reason, pod: Pod, container: str, text: str) -> Failure:
    where = f"Pod {pod.metadata.name}" + (f", container {container}" if container else "")
    return Failure(rank=rank, reason=reason, message=cut(f"{where}: {' '.join(text.split())}"))


def sentence(text: str) -> str:
    """Return `text` with one mark at its end: what it has, or a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def cut(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Return `text`, or its first `limit` - 1 characters and an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
