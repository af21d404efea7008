"""core/v1 Pod."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kaito_api.meta import ObjectMeta


class Toleration(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Toleration. No key with operator Exists tolerates every taint; no effect tolerates every effect."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class Resources(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 ResourceRequirements: the most that a container may take, as quantities."""

    limits: dict[str, str] = {}


class Container(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Container, or an init container."""

    name: str
    resources: Resources = Resources()


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Where the pod runs and how it may be moved."""

    node_name: str = ""
    service_account_name: str = ""
    priority: int | None = None
    priority_class_name: str = ""
    termination_grace_period_seconds: int | None = None
    tolerations: list[Toleration] = []
    init_containers: list[Container] = []
    containers: list[Container] = []


class PodCondition(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 PodCondition: PodScheduled, Initialized, ContainersReady, Ready, DisruptionTarget, ..."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The container has not started: reason is ImagePullBackOff, CrashLoopBackOff, CreateContainerError, ..."""

    reason: str = ""
    message: str = ""


class Running(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The container runs since `started_at`."""

    started_at: datetime | None = None


class Terminated(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The container ended. `message` is the termination log, which holds our pods' last report (at most 4096 bytes)."""

    exit_code: int
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerState(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Exactly one of the three is set; none means waiting without a reason."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What kubelet says about one container; `last_state` is the run before the current one."""

    name: str
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Phase is Pending, Running, Succeeded, Failed or Unknown; `reason` is Evicted and the like."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    host_ip: str = msgspec.field(name="hostIP", default="")
    start_time: datetime | None = None
    conditions: list[PodCondition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []


class Pod(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """core/v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def condition(self, type_: str) -> PodCondition | None:
        """Return the condition of that type, or None."""
        return next((c for c in self.status.conditions if c.type == type_), None)

    def memory_limit(self, container: str) -> str:
        """Return the memory limit of one of its containers, a quantity; "" where there is none."""
        every = (*self.spec.init_containers, *self.spec.containers)
        return next((c.resources.limits.get("memory", "") for c in every if c.name == container), "")

    @property
    def ready(self) -> bool:
        """Whether the pod's readiness gate is open."""
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"

    @property
    def finished(self) -> bool:
        """Whether no container of it will ever run again."""
        return self.status.phase in {"Succeeded", "Failed"}
