"""Descriptors of every kind that a service reads or writes."""

from __future__ import annotations

from typing import Final

from kaito_api import core
from kaito_api.machine import Machine
from kaito_api.meta import Resource
from kaito_api.nodeclaim import NodeClaim
from kaito_api.workspace import Workspace

WORKSPACES: Final = Resource("kaito.sh", "v1beta1", "workspaces", "Workspace", True, Workspace)
NODECLAIMS: Final = Resource("karpenter.sh", "v1", "nodeclaims", "NodeClaim", False, NodeClaim)
MACHINES: Final = Resource("karpenter.sh", "v1alpha5", "machines", "Machine", False, Machine)

NODES: Final = Resource("", "v1", "nodes", "Node", False, core.Node)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", False, core.Namespace)
PODS: Final = Resource("", "v1", "pods", "Pod", True, core.Pod)
SERVICES: Final = Resource("", "v1", "services", "Service", True, core.Service)
CONFIGMAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", True, core.ConfigMap)
SECRETS: Final = Resource("", "v1", "secrets", "Secret", True, core.Secret)
SERVICEACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, core.ServiceAccount)
EVENTS: Final = Resource("", "v1", "events", "Event", True, core.Event)

STATEFULSETS: Final = Resource("apps", "v1", "statefulsets", "StatefulSet", True, core.StatefulSet)
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment", True, core.Deployment)
CONTROLLERREVISIONS: Final = Resource(
    "apps", "v1", "controllerrevisions", "ControllerRevision", True, core.ControllerRevision
)
JOBS: Final = Resource("batch", "v1", "jobs", "Job", True, core.Job)

_RBAC: Final = "rbac.authorization.k8s.io"
ROLES: Final = Resource(_RBAC, "v1", "roles", "Role", True, core.Role)
ROLEBINDINGS: Final = Resource(_RBAC, "v1", "rolebindings", "RoleBinding", True, core.RoleBinding)

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", True, core.Lease)
NETWORKPOLICIES: Final = Resource(
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True, core.NetworkPolicy
)
VOLUMEATTACHMENTS: Final = Resource(
    "storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", False, core.VolumeAttachment
)

_ADMISSION: Final = "admissionregistration.k8s.io"
VALIDATINGADMISSIONPOLICIES: Final = Resource(
    _ADMISSION,
    "v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
    False,
    core.ValidatingAdmissionPolicy,
)
VALIDATINGADMISSIONPOLICYBINDINGS: Final = Resource(
    _ADMISSION,
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    False,
    core.ValidatingAdmissionPolicyBinding,
)
