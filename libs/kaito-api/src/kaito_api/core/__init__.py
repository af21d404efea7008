"""Narrow slices of the built-in kinds: only the fields that a service reads, so that a cached Pod costs some KiB."""

from kaito_api.core.access import PolicyRule, Role, RoleBinding, RoleRef, Secret, ServiceAccount, Subject
from kaito_api.core.admission import ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding
from kaito_api.core.config import ConfigMap, ControllerRevision
from kaito_api.core.coordination import Lease, LeaseSpec
from kaito_api.core.event import Event, EventSource, ObjectReference
from kaito_api.core.namespace import Namespace, NamespaceStatus
from kaito_api.core.network import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    NetworkPolicy,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from kaito_api.core.node import Node, NodeAddress, NodeCondition, NodeInfo, NodeSpec, NodeStatus, Taint
from kaito_api.core.pod import (
    ContainerState,
    ContainerStatus,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    Running,
    Terminated,
    Toleration,
    Waiting,
)
from kaito_api.core.storage import VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec
from kaito_api.core.workload import (
    Deployment,
    Job,
    JobSpec,
    JobStatus,
    StatefulSet,
    StatefulSetSpec,
    StatefulSetStatus,
    UpdateStrategy,
    WorkloadCondition,
)

__all__ = [
    "ConfigMap",
    "ContainerState",
    "ContainerStatus",
    "ControllerRevision",
    "Deployment",
    "Event",
    "EventSource",
    "Job",
    "JobSpec",
    "JobStatus",
    "Lease",
    "LeaseSpec",
    "LoadBalancerIngress",
    "LoadBalancerStatus",
    "Namespace",
    "NamespaceStatus",
    "NetworkPolicy",
    "Node",
    "NodeAddress",
    "NodeCondition",
    "NodeInfo",
    "NodeSpec",
    "NodeStatus",
    "ObjectReference",
    "Pod",
    "PodCondition",
    "PodSpec",
    "PodStatus",
    "PolicyRule",
    "Role",
    "RoleBinding",
    "RoleRef",
    "Running",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServicePort",
    "ServiceSpec",
    "ServiceStatus",
    "StatefulSet",
    "StatefulSetSpec",
    "StatefulSetStatus",
    "Subject",
    "Taint",
    "Terminated",
    "Toleration",
    "UpdateStrategy",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "VolumeAttachment",
    "VolumeAttachmentSource",
    "VolumeAttachmentSpec",
    "Waiting",
    "WorkloadCondition",
]
