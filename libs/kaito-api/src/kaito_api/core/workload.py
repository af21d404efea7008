"""apps/v1 StatefulSet and Deployment, batch/v1 Job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from kaito_api.meta import ObjectMeta


class WorkloadCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Condition of a workload. Job types: Complete, Failed, SuccessCriteriaMet, FailureTarget, Suspended."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class UpdateStrategy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """RollingUpdate, or OnDelete: a changed template waits until somebody deletes a pod."""

    type: str = "RollingUpdate"


class StatefulSetSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The fields that are immutable (a difference means orphan-delete and recreate), the replica count, the strategy.

    The pod template is compared by the applied hash, not field by field: the apiserver fills in defaults.
    """

    replicas: int = 1
    service_name: str = ""
    pod_management_policy: str = "OrderedReady"
    selector: dict[str, Any] = {}
    volume_claim_templates: list[dict[str, Any]] = []
    update_strategy: UpdateStrategy = UpdateStrategy()


class StatefulSetStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Counts are current only when `observed_generation` has reached metadata.generation."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_replicas: int = 0
    updated_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""


class StatefulSet(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """apps/v1 StatefulSet."""

    metadata: ObjectMeta
    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class Deployment(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """apps/v1 Deployment: identity only, to find and remove the workloads of KAITO before 0.8."""

    metadata: ObjectMeta


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The template is immutable: a different applied hash means a new Job."""

    parallelism: int | None = None
    completions: int | None = None
    backoff_limit: int | None = None
    suspend: bool = False


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Final only when a condition Complete or Failed is True; `failed` alone says that a pod failed, not the Job."""

    active: int = 0
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: datetime | None = None
    completion_time: datetime | None = None
    conditions: list[WorkloadCondition] = []


class Job(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """batch/v1 Job."""

    metadata: ObjectMeta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    def condition(self, type_: str) -> WorkloadCondition | None:
        """Return the condition of that type, or None."""
        return next((c for c in self.status.conditions if c.type == type_), None)

    @property
    def complete(self) -> bool:
        """Whether the Job has succeeded for good."""
        condition = self.condition("Complete")
        return condition is not None and condition.status == "True"

    @property
    def failed(self) -> bool:
        """Whether the Job has failed for good: no further pod will be tried."""
        condition = self.condition("Failed")
        return condition is not None and condition.status == "True"
