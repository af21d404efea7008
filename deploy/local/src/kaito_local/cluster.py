"""A real Kubernetes cluster on this machine: control plane, controllers, scheduler, kube-proxy, DNS and a system node."""

import asyncio
import shutil
import sys
from pathlib import Path

import yaml

from kaito_api.labels import WORKSPACE
from kaito_local import dns, host, marker, network
from kaito_local.binaries import COMPONENTS, ensure, pinned_version
from kaito_local.certificates import CertificateAuthority
from kaito_local.controlplane import ControlPlane
from kaito_local.errors import LocalError
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.kubectl import Kubectl
from kaito_local.leftovers import leftovers
from kaito_local.locations import state_root
from kaito_local.nodes.manager import NodeManager
from kaito_local.nodes.slot import SYSTEM_SLOT, NodeSpec
from kaito_local.ports import free_ports
from kaito_local.processes import ProcessTable
from kaito_local.progress import phase
from kaito_local.scratch_image import write_scratch_image

PROGRAMS = (
    *("etcd", "kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"),
    *("coredns", "pause"),
)
"""What the cluster runs of our own builds."""
_CLAIMS = "claims-"
SYSTEM_NODE = NodeSpec(
    name="kaito-system",
    pool=marker.SYSTEM_POOL,
    labels={
        "agentpool": marker.SYSTEM_POOL,
        "kubernetes.azure.com/agentpool": marker.SYSTEM_POOL,
        "kubernetes.azure.com/mode": "system",
    },
    provider_id="kaito-local://kaito-system",
)
"""The operator's own node: it belongs to no agent pool that a claim could delete."""


def _claims_process(claim_api: str, selector: str) -> str:
    return f"{_CLAIMS}{claim_api}-{selector.replace('/', '-')}"


class Cluster:
    """The local cluster of this machine; there is one at most, because bridges and packet filter rules are the host's."""

    def __init__(self, state_dir: Path | None = None) -> None:
        """Starts nothing yet."""
        self.state_dir = state_dir or state_root() / "cluster"
        self.network = network.Network()
        self.host_ip = self.network.host_ip
        """Where services of this machine are reached, from pods and from the host alike."""
        self.certs_d = self.state_dir / "containerd" / "certs.d"
        """For a registry HOST:PORT write HOST:PORT/hosts.toml here; every node's containerd reads it at each pull."""
        self.control_plane = ControlPlane(
            self.state_dir / "control-plane", self.host_ip, self.network.service_cidr, nodes=True
        )
        self.kubeconfig = self.control_plane.kubeconfig
        self.nodes = NodeManager(
            self.state_dir, self.network, self.control_plane.pki, self.kubeconfig, lambda: self.control_plane.url
        )
        self._processes = ProcessTable(self.state_dir)

    async def up(self) -> None:
        """Brings the cluster up, or takes over what runs of it; prints a line a step.

        Raises LocalError, before anything is started, when this machine lacks something or another cluster is on it.
        """
        await host.prepare()
        programs = await ensure(PROGRAMS)
        if not self.state_dir.exists():
            await network.check_free(self.network)
            self.state_dir.mkdir(parents=True, mode=0o700)
        await network.up(self.network, self.state_dir / "kernel-settings.json")
        with phase("control plane (etcd, kube-apiserver, CRDs)"):
            await self.control_plane.up()
        kubectl = await self.kubectl()
        await marker.place(kubectl, self.state_dir)
        self._start_controllers(programs)
        with phase("system node (containerd, kubelet)"):
            await self.nodes.start(SYSTEM_NODE)
            self._start_proxy(programs["kube-proxy"])
        for slot in self.nodes.nodes().values():
            if (spec := slot.node()) and slot.number != SYSTEM_SLOT:
                await self.nodes.start(spec)  # a node that lived before this machine was restarted
        with phase("cluster DNS (CoreDNS)"):
            await self._install_dns(kubectl, programs["coredns"])

    async def down(self) -> None:
        """Ends every process, mount, interface, cgroup and rule of the cluster and removes its folder, images included."""
        if not self.state_dir.exists():
            return
        await host.prepare(programs={"iptables": "iptables", "ip": "iproute2", "conntrack": "conntrack"})
        for process in self._processes.all():
            if process.name.startswith(_CLAIMS):  # else it would start the nodes again that are being ended
                await self._processes.stop(process.name)
        slots = sorted(int(folder.name) for folder in (self.state_dir / "nodes").glob("[0-9]*"))
        failures = []
        for ended in await asyncio.gather(*map(self._end_node, slots)):
            failures += ended
        await self._processes.stop_all(grace=5)
        await self.control_plane.down()
        await network.down(self.network, self.state_dir / "kernel-settings.json")
        if left := [*failures, *await leftovers(self.state_dir)]:
            raise LocalError("the cluster is down, but these things of it are still here:\n  " + "\n  ".join(left))
        await asyncio.to_thread(shutil.rmtree, self.state_dir)

    async def _end_node(self, number: int) -> list[str]:
        """Ends one slot's node; what does not end is told at the end, and keeps nothing else from being taken down."""
        try:
            await self.nodes.end(self.nodes.slot(number))
        except LocalError as error:
            return [f"node {number}: {error}"]
        return []

    def start_claims(self, claim_api: str = "nodeclaim", selector: str = WORKSPACE) -> bool:
        """Starts the stand-in for gpu-provisioner in a process of its own; false when the same one runs already.

        `claim_api` is nodeclaim or machine, `selector` the label that the claims to serve carry.
        """
        name = _claims_process(claim_api, selector)
        if self._processes.get(name):
            return False
        words = ("-m", "kaito_local", "claims", f"--claim-api={claim_api}", f"--selector={selector}")
        self._processes.start(name, (sys.executable, *words))
        return True

    async def stop_claims(self, claim_api: str = "nodeclaim", selector: str = WORKSPACE) -> None:
        """Ends that stand-in; its claims and nodes stay as they are."""
        await self._processes.stop(_claims_process(claim_api, selector))

    async def kubectl(self) -> Kubectl:
        """kubectl as cluster-admin."""
        return await self.control_plane.kubectl()

    def _start_controllers(self, programs: dict[str, Path]) -> None:
        pki = self.control_plane.pki
        common = ("--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false")
        if not self._processes.get("kube-controller-manager"):
            kubeconfig = self._kubeconfig("kube-controller-manager")
            flags = (
                *("--use-service-account-credentials=true", "--cluster-name=kaito-local"),
                f"--service-account-private-key-file={pki / 'service-account.key'}",
                f"--root-ca-file={pki / 'ca.crt'}",
                f"--flex-volume-plugin-dir={self.state_dir / 'volume-plugins'}",
            )
            self._start_controller(programs["kube-controller-manager"], kubeconfig, *common, *flags)
        if not self._processes.get("kube-scheduler"):
            self._start_controller(programs["kube-scheduler"], self._kubeconfig("kube-scheduler"), *common)

    def _start_controller(self, program: Path, kubeconfig: Path, *flags: str) -> None:
        paths = (f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-"))
        self._processes.start(program.name, [program, *paths, f"--secure-port={free_ports(1)[0]}", *flags])

    def _kubeconfig(self, name: str) -> Path:
        authority = CertificateAuthority(self.control_plane.pki)
        path = self.control_plane.pki / f"{name}.kubeconfig"
        return write_kubeconfig(path, self.control_plane.url, authority, f"system:{name}")

    def _start_proxy(self, program: Path) -> None:
        """One kube-proxy serves every node, because they share this machine's packet filter."""
        if self._processes.get("kube-proxy"):
            return
        health, metrics = free_ports(2)
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "hostnameOverride": SYSTEM_NODE.name,
            "clientConnection": {"kubeconfig": str(self._kubeconfig("kube-proxy"))},
            "clusterCIDR": self.network.pod_cidr,
            "bindAddress": self.host_ip,
            "healthzBindAddress": f"127.0.0.1:{health}",
            "metricsBindAddress": f"127.0.0.1:{metrics}",
            "nodePortAddresses": ["primary"],
            "iptables": {"localhostNodePorts": False},
            # The host's own connection tracking stays as it is.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        config = self.state_dir / "kube-proxy.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        self._processes.start("kube-proxy", [program, f"--config={config}"])

    async def _install_dns(self, kubectl: Kubectl, program: Path) -> None:
        image = f"kaito.local/coredns:{pinned_version(COMPONENTS['coredns'])}"
        containerd = await self.nodes.prepare(self.nodes.slot(SYSTEM_SLOT))
        if image not in await containerd.images():
            archive = self.state_dir / "coredns.tar"
            write_scratch_image(archive, image, program)
            await containerd.import_image(archive)
            archive.unlink()
        await kubectl.apply(*dns.manifests(image, self.network.dns_ip, dns.host_upstreams()))
        await kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=120s", timeout=130)
