"""Pure: whether a workload stands and makes no pod.

Its controller tells why in Events alone (a quota, a LimitRange, Pod Security, a webhook), and the node under it costs. A pod is
made within a moment, so what lasts is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from kaito_api.conditions import Reason, WorkspaceCondition, find_condition
from kaito_api.core import Job, Pod, StatefulSet
from kaito_api.workspace import Workspace
from workspace_controller.failures import cut
from workspace_controller.status.finding import Finding
from workspace_controller.status.wait import Wait

GRACE: Final = timedelta(seconds=30)


class Unmade(Wait, frozen=True, kw_only=True):
    """A workload without its pod."""

    kind: str
    name: str
    namespace: str

    def finding(self) -> Finding:
        """Return what the condition about the workload says."""
        reason = Reason.JOB_PENDING if self.kind == "Job" else Reason.INFERENCE_PENDING
        text = (
            f"The {self.kind} {self.name} makes no pod: a quota, a LimitRange, the namespace's Pod Security level or an "
            f"admission webhook may refuse it. kubectl -n {self.namespace} describe {self.kind.lower()} {self.name} says why."
        )
        return Finding(ok=False, reason=reason, message=cut(text, 512))


def unmade(workspace: Workspace, workload: StatefulSet | Job | None, pods: Sequence[Pod]) -> Unmade | None:
    """Return `workload` where it should have made a pod and there is none, not even one that has ended.

    It counts from the later of two times: since when it stands, and since when it has not been ready.
    """
    if workload is None or workload.metadata.deleting or not _makes_pods(workload):
        return None
    uid, created = workload.metadata.uid, workload.metadata.creation_timestamp
    if created is None or any(pod.metadata.controller and pod.metadata.controller.uid == uid for pod in pods):
        return None
    job = isinstance(workload, Job)
    told = find_condition(
        workspace.status.conditions, WorkspaceCondition.JOB_STARTED if job else WorkspaceCondition.INFERENCE_READY
    )
    since = max(created, told.last_transition_time) if told is not None and told.last_transition_time else created
    return Unmade(
        kind="Job" if job else "StatefulSet",
        name=workload.metadata.name,
        namespace=workload.metadata.namespace,
        grace_ends=since + GRACE,
    )


def _makes_pods(workload: StatefulSet | Job) -> bool:
    if isinstance(workload, Job):
        return not (workload.complete or workload.failed or workload.spec.suspend or workload.status.active)
    return workload.spec.replicas > 0 and workload.status.replicas == 0
