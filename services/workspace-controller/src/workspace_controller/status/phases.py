"""Pure: when each phase on the way to a model or an adapter began and ended, by the clocks of the objects themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from kaito_api.conditions import WorkspaceCondition, find_condition
from kaito_api.core import ContainerStatus, Pod
from kaito_api.meta import Condition, whole_seconds
from kaito_api.workspace import Workspace
from kaito_api.workspace_status import Phase, PhaseStatus
from workspace_controller.status.inference import SERVER, WEIGHTS, report_of
from workspace_controller.tuning.steps import DATA, PACKAGER, TUNER

_ORDER: Final = [phase.value for phase in Phase]


def time_phases(workspace: Workspace, conditions: Sequence[Condition], pods: Sequence[Pod]) -> list[PhaseStatus]:
    """Return the phases that have begun. One that has ended stays as it was: a restart later is no new start-up."""
    known = {phase.name: phase for phase in workspace.status.phases}
    first = min((pod for pod in pods if not pod.metadata.deleting), key=lambda pod: pod.metadata.name, default=None)
    fresh = [_nodes(workspace, conditions)]
    if first is not None:
        fresh += [_images(first), _weights(first), _engine(first)]
        fresh += [_data(first), _training(first), _packaging(first)]
    result = [_merge(known.pop(phase.name, None), phase) for phase in fresh if phase is not None]
    # The pod may be away for the moment; what was measured of it is not.
    result += [phase for phase in known.values() if phase.finished_at is not None]
    return sorted(result, key=lambda phase: _ORDER.index(phase.name))


def _merge(known: PhaseStatus | None, fresh: PhaseStatus) -> PhaseStatus:
    if known is not None and known.name == Phase.TRAINING and known.finished_at is None:
        # It begins with a report, and every later report has a later time.
        return msgspec.structs.replace(fresh, started_at=min(known.started_at, fresh.started_at))
    return known if known is not None and known.finished_at is not None else fresh


def _phase(name: Phase, start: datetime | None, end: datetime | None) -> PhaseStatus | None:
    if start is None:
        return None
    finished = whole_seconds(end) if end is not None else None
    return PhaseStatus(name=name, started_at=whole_seconds(start), finished_at=finished)


def _nodes(workspace: Workspace, conditions: Sequence[Condition]) -> PhaseStatus | None:
    ready = find_condition(conditions, WorkspaceCondition.RESOURCE_READY)
    done = ready.last_transition_time if ready is not None and ready.status == "True" else None
    return _phase(Phase.NODES, workspace.metadata.creation_timestamp, done)


def _images(pod: Pod) -> PhaseStatus | None:
    scheduled = pod.condition("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        return None
    starts = [start for status in _statuses(pod) if (start := _started(status)) is not None]
    return _phase(Phase.IMAGES, scheduled.last_transition_time, min(starts, default=None))


def _weights(pod: Pod) -> PhaseStatus | None:
    status = next((status for status in pod.status.init_container_statuses if status.name == WEIGHTS), None)
    if status is None:
        return None
    ended = status.state.terminated
    done = ended.finished_at if ended is not None and ended.exit_code == 0 else None
    return _phase(Phase.WEIGHTS, _started(status), done)


def _engine(pod: Pod) -> PhaseStatus | None:
    status = next((status for status in pod.status.container_statuses if status.name == SERVER), None)
    ready = pod.condition("Ready")
    done = ready.last_transition_time if ready is not None and ready.status == "True" else None
    return _phase(Phase.ENGINE, _started(status), done) if status is not None else None


def _data(pod: Pod) -> PhaseStatus | None:
    """From the container that brings the data, else the tuner that does so itself, to the first word about training."""
    begun = [start for status in _statuses(pod) if status.name in {DATA, TUNER} and (start := _started(status))]
    return _phase(Phase.DATA, min(begun, default=None), _first_step(pod))


def _training(pod: Pod) -> PhaseStatus | None:
    tuner = next((status for status in pod.status.init_container_statuses if status.name == TUNER), None)
    tuner = tuner or next((status for status in pod.status.container_statuses if status.name == TUNER), None)
    ended = tuner.state.terminated if tuner is not None else None
    return _phase(Phase.TRAINING, _first_step(pod), ended.finished_at if ended is not None else None)


def _packaging(pod: Pod) -> PhaseStatus | None:
    status = next((status for status in pod.status.container_statuses if status.name == PACKAGER), None)
    if status is None:
        return None
    ended = status.state.terminated
    done = ended.finished_at if ended is not None and ended.exit_code == 0 else None
    return _phase(Phase.PACKAGING, _started(status), done)


def _first_step(pod: Pod) -> datetime | None:
    said = report_of(pod, TUNER)
    return said.at if said is not None and said.tuning is not None else None


def _statuses(pod: Pod) -> tuple[ContainerStatus, ...]:
    return (*pod.status.init_container_statuses, *pod.status.container_statuses)


def _started(status: ContainerStatus) -> datetime | None:
    for state in (status.state, status.last_state):
        if state.running is not None:
            return state.running.started_at
        if state.terminated is not None:
            return state.terminated.started_at
    return None
