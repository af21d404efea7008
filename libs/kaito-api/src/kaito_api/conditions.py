"""Condition types and reasons, and the one function that sets a condition.

A reason is stable, machine-readable API: never rename one. Spellings of KAITO's own reasons are kept, lower-case first
letters included. Which reason goes with which condition is said beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from kaito_api.meta import Condition, whole_seconds


class Status(StrEnum):
    """metav1.ConditionStatus."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class WorkspaceCondition(StrEnum):
    """Condition types of a Workspace."""

    NODE_CLAIM_READY = "NodeClaimReady"
    """Enough claims are Ready. Absent where the nodes are brought by the user."""
    NODES_READY = "NodesReady"
    """Enough nodes are Ready, of the right type, and offer their GPUs."""
    RESOURCE_READY = "ResourceReady"
    """What the plan needs of claims and nodes is there."""
    INFERENCE_READY = "InferenceReady"
    """Every pod is ready and runs the current spec."""
    JOB_STARTED = "JobStarted"
    """The tuning's Job runs, or has run to its end."""
    BENCHMARK_COMPLETED = "BenchmarkCompleted"
    """KAITO's; no service writes it."""
    MODEL_MIRROR_READY = "ModelMirrorReady"
    """KAITO's; no service writes it."""
    SUCCEEDED = "WorkspaceSucceeded"
    """The summary: the model serves, or the tuning is done. Its message repeats the first thing in the way."""
    DELETING = "WorkspaceDeleting"
    """It is being deleted; the message says what is still there."""
    ADAPTERS_READY = "AdaptersReady"
    """Every adapter of the spec serves. Absent where there are none."""


class Reason(StrEnum):
    """Reasons in the conditions of a Workspace."""

    # NodeClaimReady, NodesReady
    NODE_CLAIMS_READY = "NodeClaimsReady"
    NODE_CLAIM_NOT_READY = "NodeClaimNotReady"
    NODES_READY = "NodesReady"
    NODE_NOT_READY = "NodeNotReady"
    NODE_PLUGINS_NOT_READY = "NodePluginsNotReady"
    NOT_ENOUGH_NODES = "NotEnoughNodes"
    """Fewer nodes match the selector than the plan needs (nodes brought by the user)."""
    NODES_RELEASED = "NodesReleased"
    """Nothing needs the nodes any more: a finished or finally failed tuning."""

    # ResourceReady
    RESOURCE_SUCCESS = "workspaceResourceStatusSuccess"
    RESOURCE_NOT_READY = "workspaceResourceStatusNotReady"
    MODEL_MIRROR_NOT_READY = "ModelMirrorNotReady"

    # InferenceReady: general
    INFERENCE_SUCCESS = "WorkspaceInferenceStatusSuccess"
    INFERENCE_PENDING = "WorkspaceInferenceStatusPending"
    WEIGHTS_LOADING = "WeightsLoading"
    ENGINE_STARTING = "EngineStarting"

    # InferenceReady, JobStarted: a pod of the workload fails, most urgent first
    SAS_TOKEN_FETCH_FAILED = "SASTokenFetchFailed"  # noqa: S105
    CONTAINER_OOM_KILLED = "ContainerOOMKilled"
    IMAGE_PULL_ERROR = "ImagePullError"
    CONTAINER_START_ERROR = "ContainerStartError"
    CONTAINER_CRASH_LOOP_BACK_OFF = "ContainerCrashLoopBackOff"
    NODE_DISK_PRESSURE = "NodeDiskPressure"
    NODE_MEMORY_PRESSURE = "NodeMemoryPressure"
    POD_EVICTED = "PodEvicted"
    UNSCHEDULABLE = "Unschedulable"

    # InferenceReady: model streaming
    STREAMING_STORAGE_CLASS_NOT_FOUND = "ModelStreamingStorageClassNotFound"
    STREAMING_INVALID_STORAGE_CLASS = "ModelStreamingInvalidStorageClass"
    STREAMING_SERVICE_ACCOUNT_INVALID = "ModelStreamingServiceAccountInvalid"
    STREAMING_INVALID_ANNOTATIONS = "ModelStreamingInvalidAnnotations"
    MODEL_MIRROR_CREATE_FAILED = "ModelMirrorCreateFailed"
    MODEL_MIRROR_READY = "ModelMirrorReady"
    MODEL_MIRROR_PENDING = "ModelMirrorPending"

    # InferenceReady, JobStarted: what a pod of ours says on its way out (its exit codes, contract of the pods)
    CONFIG_INVALID = "ConfigInvalid"
    WEIGHTS_MISSING = "WeightsMissing"
    WEIGHTS_INVALID = "WeightsInvalid"
    ENGINE_LACKS_GPU = "EngineLacksGPU"
    """No engine image has kernels for this GPU. Said by the planner before a node is bought, else by the server."""
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    REGISTRY_UNTRUSTED = "RegistryUntrusted"
    """Its certificate is not trusted, it has no TLS, or it sends us to a place where no login may go."""
    ENGINE_FAILED = "EngineFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    ACCESS_DENIED = "AccessDenied"
    WAITING_FOR_ACCESS = "WaitingForAccess"
    """The pod may not read a Secret yet that the spec has just named; retried, no failure."""
    API_KEYS_MISSING = "ApiKeysMissing"
    """The Secret with the API keys does not exist, or holds none: the model serves nobody."""

    # ResourceReady, WorkspaceSucceeded: the plan cannot be made or applied; the user or an operator must act
    PRESET_UNKNOWN = "PresetUnknown"
    INSTANCE_TYPE_UNKNOWN = "InstanceTypeUnknown"
    INSTANCE_TYPE_MISSING = "InstanceTypeMissing"
    INSTANCE_TYPE_TOO_SMALL = "InstanceTypeTooSmall"
    SELECTOR_INVALID = "SelectorInvalid"
    SPEC_INVALID = "SpecInvalid"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    NAME_TAKEN = "NameTaken"
    """An object of the needed name exists and belongs to somebody else; it is not touched."""
    RESTART_REQUIRED = "RestartRequired"
    """A change of the spec takes effect only when the engine is started again."""
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    ADMISSION_POLICY_MISSING = "AdmissionPolicyMissing"
    """The fence around the workload's ServiceAccount is not installed, so no rights are granted to it."""
    REPORT_INVALID = "ReportInvalid"
    CLAIM_API_NOT_SERVED = "ClaimApiNotServed"
    """The cluster has no CRD for the claim kind that the controller is set to use."""
    MULTI_NODE_NOT_YET_AVAILABLE = "MultiNodeNotYetAvailable"
    """The model needs several nodes of this size, and the model server runs on one."""
    WRITE_REFUSED = "WriteRefused"
    """The apiserver refuses an object of the Workspace (rights, quota, an admission policy, its schema)."""

    # AdaptersReady
    ADAPTERS_READY = "AdaptersReady"
    ADAPTERS_PENDING = "AdaptersPending"
    ADAPTER_FAILED = "AdapterFailed"
    ADAPTERS_UNSUPPORTED = "AdaptersUnsupported"

    # JobStarted
    JOB_STARTED = "WorkspaceTuningJobStatusStarted"
    JOB_PENDING = "WorkspaceTuningJobStatusPending"
    JOB_FAILED = "WorkspaceTuningJobStatusFailed"
    DATA_INVALID = "DataInvalid"
    DATA_UNAVAILABLE = "DataUnavailable"
    DISK_FULL = "DiskFull"
    OUTPUT_UNWRITABLE = "OutputUnwritable"
    """The volume for a tuning's result takes no file from the tuner; nothing was trained."""
    INTERRUPTED = "Interrupted"
    """The pod was told to stop before it was done; the next one goes on from the last checkpoint."""
    TRAINING_FAILED = "TrainingFailed"
    TRAINING_HUNG = "TrainingHung"
    SIGNING_KEY_INVALID = "SigningKeyInvalid"
    """The key that the result shall be signed with is missing or unusable; nothing was trained."""
    PUSH_FAILED = "PushFailed"
    """The registry refuses the result; the node is held for `push-hold`, then released."""
    ADAPTER_INVALID = "AdapterInvalid"
    """The packager refuses what was trained: no engine could serve it."""
    OUTPUT_CONFLICT = "OutputConflict"
    """An older Workspace pushes to the same tag."""
    DRY_RUN_DONE = "DryRunDone"
    """WorkspaceSucceeded is False: nothing was trained, the message says what the whole would take."""

    # BenchmarkCompleted
    BENCHMARK_COMPLETED = "BenchmarkCompleted"
    BENCHMARK_FAILED = "BenchmarkFailed"

    # WorkspaceSucceeded, WorkspaceDeleting
    SUCCEEDED = "workspaceSucceeded"
    PENDING = "workspacePending"
    FAILED = "workspaceFailed"
    DELETED = "workspaceDeleted"
    WAITING_FOR_CLAIMS = "WaitingForClaims"
    """The Workspace is being deleted and its claims are not gone yet: nodes may still cost."""


class ClaimCondition(StrEnum):
    """Condition types of a NodeClaim (karpenter.sh/v1). READY is the root: the conjunction of the first three."""

    LAUNCHED = "Launched"
    REGISTERED = "Registered"
    INITIALIZED = "Initialized"
    READY = "Ready"
    DRAINED = "Drained"
    VOLUMES_DETACHED = "VolumesDetached"
    INSTANCE_TERMINATING = "InstanceTerminating"
    CONSOLIDATABLE = "Consolidatable"
    DRIFTED = "Drifted"
    DISRUPTION_REASON = "DisruptionReason"
    CONSISTENT_STATE_FOUND = "ConsistentStateFound"


class MachineConditionType(StrEnum):
    """Condition types of a Machine (karpenter.sh/v1alpha5)."""

    LAUNCHED = "MachineLaunched"
    REGISTERED = "MachineRegistered"
    INITIALIZED = "MachineInitialized"
    READY = "Ready"
    DRIFTED = "MachineDrifted"
    EMPTY = "MachineEmpty"
    EXPIRED = "MachineExpired"


class ClaimReason(StrEnum):
    """Reasons in the conditions of a claim. A True condition has its own type as reason."""

    AWAITING_RECONCILIATION = "AwaitingReconciliation"
    RECONCILING_DEPENDENTS = "ReconcilingDependents"
    UNHEALTHY_DEPENDENTS = "UnhealthyDependents"
    NOT_LAUNCHED = "MachineNotLaunched"
    LAUNCH_FAILED = "LaunchFailed"
    LINK_FAILED = "LinkFailed"
    NODE_NOT_FOUND = "NodeNotFound"
    REGISTRATION_TIMEOUT = "RegistrationTimeout"
    """The machine was made and did not join the cluster in time; the claim is deleted."""
    MULTIPLE_NODES_FOUND = "MultipleNodesFound"
    NODE_NOT_READY = "NodeNotReady"
    STARTUP_TAINTS_EXIST = "StartupTaintsExist"
    KNOWN_EPHEMERAL_TAINTS_EXIST = "KnownEphemeralTaintsExist"
    RESOURCE_NOT_REGISTERED = "ResourceNotRegistered"
    DRAINING = "Draining"
    AWAITING_VOLUME_DETACHMENT = "AwaitingVolumeDetachment"
    TERMINATION_GRACE_PERIOD_ELAPSED = "TerminationGracePeriodElapsed"
    # classes of a failed launch
    QUOTA_EXCEEDED = "QuotaExceeded"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    INSTANCE_TYPE_NOT_AVAILABLE = "InstanceTypeNotAvailable"
    UNAUTHORIZED = "Unauthorized"
    CLOUD_BUSY = "CloudBusy"
    INVALID_CLAIM = "InvalidClaim"
    INVALID_REQUEST = "InvalidRequest"
    SKU_NOT_AVAILABLE = "SKUNotAvailable"
    ZONE_NOT_SUPPORTED = "ZoneNotSupported"


def find_condition(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Sequence[Condition], type_: str) -> bool:
    """Whether the condition exists and is True; Unknown and absent are not."""
    condition = find_condition(conditions, type_)
    return condition is not None and condition.status == Status.TRUE


def set_condition(conditions: list[Condition], new: Condition, now: datetime) -> list[Condition]:
    """Return `conditions` with `new` in the place of its type, or at the end.

    `last_transition_time` becomes `now` (whole seconds) only when the status differs from the stored one. Where nothing
    changes the very same list comes back, so that `result is conditions` means that there is nothing to write.
    """
    old = find_condition(conditions, new.type)
    moved = old is None or old.status != new.status or old.last_transition_time is None
    stamp = whole_seconds(now) if old is None or moved else old.last_transition_time
    entry = msgspec.structs.replace(new, last_transition_time=stamp)
    if old is None:
        return [*conditions, entry]
    if entry == old:
        return conditions
    return [entry if condition is old else condition for condition in conditions]
