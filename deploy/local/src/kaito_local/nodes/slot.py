"""A node's place on this machine: number, address and folders. The place outlives the nodes that come and go in it."""

from pathlib import Path

import msgspec

from kaito_local.network import Network, pod_bridge
from kaito_local.nodes import cgroups

SYSTEM_SLOT = 1
LAST_SLOT = 32
"""More kubelets than this one machine does not carry anyway."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is asked for. `taints` are in the form KEY=VALUE:EFFECT; `gpus` is the count of nvidia.com/gpu."""

    name: str
    pool: str
    labels: dict[str, str] = {}
    taints: tuple[str, ...] = ()
    provider_id: str = ""
    gpus: int = 0
    instance_type: str = ""


class Slot:
    """Place number `number`: slot 1 is the system node's, the pools' nodes have the others."""

    def __init__(self, cluster_dir: Path, network: Network, number: int) -> None:
        """Touches nothing."""
        self.number = number
        self.folder = cluster_dir / "nodes" / str(number)
        self.address = network.node_ip(number)
        self.pod_subnet = network.pod_subnet(number)
        self.bridge = pod_bridge(number)
        self.cgroup = f"{cgroups.PREFIX}{number}"
        self.cni_network = f"kaito-node{number}"
        self.containerd_root = self.folder / "containerd"
        """Images and snapshots; kept when a node of this slot ends, so that a large image is unpacked once."""
        self.run = self.folder / "run"
        """Everything that ends with the node: sockets, sandboxes, the kubelet's folder, logs of pods, addresses given out."""
        self.certs_d = cluster_dir / "containerd" / "certs.d"
        """hosts.toml files of registries, one folder a registry, the same for every node."""

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.run / "containerd.sock"

    @property
    def kubelet_root(self) -> Path:
        """The kubelet's root folder."""
        return self.run / "kubelet"

    @property
    def pod_logs(self) -> Path:
        """Where the kubelet keeps the logs of pods."""
        return self.run / "pods"

    def node(self) -> NodeSpec | None:
        """The node that lives here now."""
        try:
            return msgspec.json.decode((self.folder / "node.json").read_bytes(), type=NodeSpec)
        except FileNotFoundError:
            return None

    def occupy(self, spec: NodeSpec) -> None:
        """Records the node, before anything of it is started, so that whoever comes later can end it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "node.json").write_bytes(msgspec.json.encode(spec))

    def vacate(self) -> None:
        """Forgets the node, once nothing of it is left."""
        (self.folder / "node.json").unlink(missing_ok=True)
