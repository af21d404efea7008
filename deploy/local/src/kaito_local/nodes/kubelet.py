"""A node's kubelet: its own address, folders, cgroup and identity."""

from contextlib import suppress
from pathlib import Path

import yaml

from kaito_local.certificates import CertificateAuthority
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.network import Network
from kaito_local.nodes.slot import SYSTEM_SLOT, NodeSpec, Slot
from kaito_local.ports import free_ports
from kaito_local.processes import Process, ProcessTable

LEGACY_LOGS = Path("/var/log/containers")
"""Where every kubelet puts links to the logs of containers; the place cannot be configured."""

CNI_RESULTS = Path("/var/lib/cni/results")
"""Where libcni keeps what a plugin answered."""

_OFTEN_EMPTY = (
    *(Path("/var/lib/kubelet/device-plugins"), Path("/var/lib/kubelet"), CNI_RESULTS, CNI_RESULTS.parent),
    LEGACY_LOGS,
)
_SELF_LABEL_PREFIXES = ("kubelet.kubernetes.io/", "node.kubernetes.io/")
_SELF_LABELS = frozenset(
    {
        *("kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os"),
        *("topology.kubernetes.io/zone", "topology.kubernetes.io/region", "node.kubernetes.io/instance-type"),
        *("failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region"),
        *("beta.kubernetes.io/instance-type", "beta.kubernetes.io/arch", "beta.kubernetes.io/os"),
    }
)


def may_label_itself(label: str) -> bool:
    """Whether a kubelet may set this label on its own Node (the NodeRestriction admission plugin's rule)."""
    prefix = label.rpartition("/")[0]
    reserved = any(prefix == domain or prefix.endswith(f".{domain}") for domain in ("kubernetes.io", "k8s.io"))
    return not reserved or label in _SELF_LABELS or label.startswith(_SELF_LABEL_PREFIXES)


def start(*, program: Path, slot: Slot, spec: NodeSpec, network: Network, pki: Path, url: str) -> Process:
    """Writes the node's credentials and configuration and starts its kubelet, or returns the running one."""
    table = ProcessTable(slot.folder)
    if running := table.get("kubelet"):
        return running
    authority = CertificateAuthority(pki)
    credentials = slot.run / "pki"
    credentials.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = f"kubelet-{slot.number}"
    certificate, key = authority.issue(
        f"{name}-serving", f"system:node:{spec.name}", ("system:nodes",), (slot.address, spec.name)
    )
    kubeconfig = write_kubeconfig(
        pki / f"{name}.kubeconfig", url, authority, f"system:node:{spec.name}", ("system:nodes",)
    )
    settings = _settings(slot, spec, network, authority.certificate_file)
    settings |= {"tlsCertFile": str(certificate), "tlsPrivateKeyFile": str(key)}
    config = slot.run / "kubelet.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    labels = {key: value for key, value in spec.labels.items() if may_label_itself(key)}
    if spec.instance_type:
        labels.setdefault("node.kubernetes.io/instance-type", spec.instance_type)
    arguments = {
        "config": config,
        "kubeconfig": kubeconfig,
        "root-dir": slot.kubelet_root,
        "cert-dir": credentials,
        "hostname-override": spec.name,
        "node-ip": slot.address,
        "node-labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
    }
    return table.start("kubelet", [program, *(f"--{flag}={value}" for flag, value in arguments.items())])


def _settings(slot: Slot, spec: NodeSpec, network: Network, client_ca: Path) -> dict[str, object]:
    """The KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    port, health_port = free_ports(1, slot.address) + free_ports(1)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": slot.address,
        "port": port,
        "healthzPort": health_port,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "Webhook"},
        "providerID": spec.provider_id,
        "registerWithTaints": [_taint(taint) for taint in spec.taints],
        "containerRuntimeEndpoint": f"unix://{slot.socket}",
        "podLogsDir": str(slot.pod_logs),
        "volumePluginDir": str(slot.run / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{slot.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "clusterDNS": [network.dns_ip],
        "makeIPTablesUtilChains": False,
        # The disk is the developer's: its being full must neither evict pods nor delete images that took minutes to make.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "serializeImagePulls": False,
        "maxPods": 60,
    }


def _taint(text: str) -> dict[str, str]:
    """KEY=VALUE:EFFECT or KEY:EFFECT as the API has it."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


def remove_traces(slot: Slot) -> None:
    """Removes what kubelet and CNI write to places that cannot be configured: links to logs, results of CNI calls."""
    for link in LEGACY_LOGS.glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{slot.pod_logs}/"):
            link.unlink()
    for result in CNI_RESULTS.glob(f"{slot.cni_network}-*"):
        result.unlink(missing_ok=True)
    for folder in _OFTEN_EMPTY if slot.number == SYSTEM_SLOT else ():
        with suppress(FileNotFoundError, OSError):  # somebody else's files are in it
            folder.rmdir()
