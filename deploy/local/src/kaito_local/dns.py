"""The cluster's DNS: CoreDNS as a Deployment on the system node, its image one static binary."""

import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Any

_LABELS = {"k8s-app": "kube-dns"}
_NAME = "coredns"
_NAMESPACE = "kube-system"
_PORT = 1053
"""Above 1023, so that CoreDNS needs no capability."""

_COREFILE = """.:{port} {{
    errors
    health {{
        lameduck 2s
    }}
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
{forward}    cache 5
    loadbalance
}}
"""


def upstream_servers(resolv_conf: str) -> list[str]:
    """The nameservers of a resolv.conf that a pod can reach: a loopback address in a pod is the pod itself."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with suppress(ValueError):
                if not ipaddress.ip_address(words[1].partition("%")[0]).is_loopback:
                    found.append(words[1])
    return found


def host_upstreams() -> list[str]:
    """This machine's nameservers; those behind systemd-resolved's stub, where that is used."""
    for file in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        with suppress(FileNotFoundError):
            if servers := upstream_servers(file.read_text()):
                return servers
    return []


def manifests(image: str, service_ip: str, upstreams: list[str]) -> list[dict[str, Any]]:
    """Everything that CoreDNS needs in the cluster, its Service at `service_ip`."""
    forward = f"    forward . {' '.join(upstreams)}\n" if upstreams else ""
    metadata = {"name": _NAME, "namespace": _NAMESPACE, "labels": _LABELS}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        *_access(),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {"Corefile": _COREFILE.format(port=_PORT, forward=forward)},
        },
        _deployment(image, metadata),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**metadata, "name": "kube-dns"},
            "spec": {
                "clusterIP": service_ip,
                "selector": _LABELS,
                "ports": [
                    {"name": "dns", "port": 53, "targetPort": _PORT, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "targetPort": _PORT, "protocol": "TCP"},
                ],
            },
        },
    ]


def _access() -> list[dict[str, Any]]:
    group = "rbac.authorization.k8s.io"
    name = "kaito-local:coredns"
    read = ["list", "watch"]
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": _NAMESPACE}],
        },
    ]


def _deployment(image: str, metadata: dict[str, Any]) -> dict[str, Any]:
    container = {
        "name": _NAME,
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"containerPort": _PORT, "protocol": protocol} for protocol in ("UDP", "TCP")],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": _NAME,
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.azure.com/mode": "system"},
        "dnsPolicy": "Default",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": _NAME}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }
