"""The cluster's network on this machine: addresses, bridges, routes and packet filter rules, all removable by name."""

import ipaddress
import json
from contextlib import suppress
from pathlib import Path

import msgspec

from kaito_local import netfilter
from kaito_local.command import run, succeeds
from kaito_local.errors import CommandError, LocalError

_PROC = Path("/proc/sys")
_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    # Replies between two pods of one bridge must pass the NAT table too, or a Service's answer comes from the wrong address.
    "net/bridge/bridge-nf-call-iptables": "1",
}
_KUBELET_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""What a kubelet sets on its own; put back in the end."""

NODE_BRIDGE = "kaito0"
"""Carries every node's address; it has no ports, the addresses are this machine's own."""

_KUBE_PROXY_CHAIN = "KUBE-SERVICES"
_BRIDGE_PREFIX = "kaitopods"


class Network(msgspec.Struct, frozen=True):
    """The addresses. Node slot N has 10.200.0.N and pods in 10.201.N.0/24; slot 1 is the system node and the host's address."""

    node_cidr: str = "10.200.0.0/24"
    pod_cidr: str = "10.201.0.0/16"
    service_cidr: str = "10.202.0.0/16"

    @property
    def host_ip(self) -> str:
        """Where the apiserver, the registry and other services of this machine are reached from pods and from the host."""
        return self.node_ip(1)

    @property
    def dns_ip(self) -> str:
        """The Service address of the cluster's DNS."""
        return str(ipaddress.ip_network(self.service_cidr)[10])

    def node_ip(self, slot: int) -> str:
        """The address of a node."""
        return str(ipaddress.ip_network(self.node_cidr)[slot])

    def pod_subnet(self, slot: int) -> str:
        """The pods' addresses on a node."""
        return str(list(ipaddress.ip_network(self.pod_cidr).subnets(new_prefix=24))[slot])


def pod_bridge(slot: int) -> str:
    """The name of a node's bridge; interface names end at 15 characters."""
    return f"{_BRIDGE_PREFIX}{slot}"


async def check_free(network: Network) -> None:
    """Raises LocalError when another cluster's rules are here, or when somebody else uses our addresses."""
    if await netfilter.chain_exists("nat", _KUBE_PROXY_CHAIN):
        raise LocalError(
            "another Kubernetes node runs on this machine (the KUBE-SERVICES chain is in iptables): two would share its"
            " rules. Use that cluster by name (CLUSTER=<context>), or stop it; `kube-proxy --cleanup` removes its leftovers."
        )
    ours = [ipaddress.ip_network(cidr) for cidr in (network.node_cidr, network.pod_cidr, network.service_cidr)]
    for route in json.loads(await run("ip", "-json", "-4", "route", "show", "table", "all") or "[]"):
        with suppress(ValueError):
            used = ipaddress.ip_network(str(route.get("dst", "")))
            clash = next((own for own in ours if own.overlaps(used)), None)
            device = str(route.get("dev", ""))
            if clash and device != NODE_BRIDGE and not device.startswith(_BRIDGE_PREFIX):
                raise LocalError(f"the route to {used} on {device} overlaps with the cluster's own {clash}")


async def up(network: Network, saved: Path) -> None:
    """Makes the node bridge, forwarding and the rules; the kernel settings found are written to `saved`. Idempotent."""
    if not saved.exists():
        saved.write_bytes(msgspec.json.encode(_read_settings()))
    with suppress(CommandError, LocalError):
        await run("modprobe", "-a", "bridge", "br_netfilter", "overlay", "veth")  # or they are built in
    for name, value in _SETTINGS.items():
        if (_PROC / name).exists():
            (_PROC / name).write_text(value)
    await _add_link(NODE_BRIDGE)
    await add_node_address(network, 1)
    for cidr in (network.pod_cidr, network.service_cidr):
        # An address of the cluster that nobody has (yet) must not be looked for outside of this machine.
        await run("ip", "route", "replace", cidr, "dev", NODE_BRIDGE)
    pods, nodes = network.pod_cidr, network.node_cidr
    from_pods, to_pods = ("-i", f"{_BRIDGE_PREFIX}+"), ("-o", f"{_BRIDGE_PREFIX}+")
    rules: dict[str, list[list[str]]] = {
        # Pods may speak to anybody; from other machines only answers come in, or everybody on the network reached them.
        "KAITO-FORWARD": [
            [*from_pods, "-j", "ACCEPT"],
            [*to_pods, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
            [*to_pods, "-j", "DROP"],
        ],
        # The nodes' addresses (apiserver, kubelets, a registry without passwords) are for pods and for this machine.
        "KAITO-INPUT": [
            [*from_pods, "-j", "ACCEPT"],
            ["-i", "lo", "-j", "RETURN"],
            ["-d", nodes, "-j", "DROP"],
        ],
        # What leaves the cluster carries this machine's address; among pods, nodes and Services addresses stay as they are.
        "KAITO-NAT": [["-s", pods, "-d", nodes, "-j", "RETURN"], ["-s", pods, "!", "-d", pods, "-j", "MASQUERADE"]],
    }
    await netfilter.install(rules)


async def down(network: Network, saved: Path) -> None:
    """Removes every bridge, rule and setting of ours, and kube-proxy's rules. What is not there is not an error."""
    await netfilter.remove_all()
    for name in await links():
        await remove_link(name)
    for flag, cidr in (("--orig-src", network.pod_cidr), ("--orig-dst", network.service_cidr)):
        # Else the next cluster's first packets follow the translations of this one's Services.
        await run("conntrack", "-D", flag, cidr, accept=frozenset({0, 1}))
    if saved.exists():
        for name, value in msgspec.json.decode(saved.read_bytes(), type=dict[str, str]).items():
            (_PROC / name).write_text(value)


async def links() -> list[str]:
    """Our bridges that are there."""
    shown = json.loads(await run("ip", "-json", "link", "show", "type", "bridge") or "[]")
    names = [str(link.get("ifname", "")) for link in shown]
    return [name for name in names if name == NODE_BRIDGE or name.startswith(_BRIDGE_PREFIX)]


async def add_node_address(network: Network, slot: int) -> None:
    """Gives this machine the address of a node."""
    await run("ip", "addr", "replace", f"{network.node_ip(slot)}/24", "dev", NODE_BRIDGE)


async def remove_node_address(network: Network, slot: int) -> None:
    """Takes the address of a node away again."""
    await succeeds("ip", "addr", "del", f"{network.node_ip(slot)}/24", "dev", NODE_BRIDGE)


async def remove_link(name: str) -> None:
    """Removes an interface that may be gone already."""
    await succeeds("ip", "link", "del", name)


async def _add_link(name: str) -> None:
    if not await succeeds("ip", "link", "show", name):
        await run("ip", "link", "add", name, "type", "bridge")
    await run("ip", "link", "set", name, "up")


def _read_settings() -> dict[str, str]:
    files = [_PROC / name for name in (*_SETTINGS, *_KUBELET_SETTINGS)]
    return {str(file.relative_to(_PROC)): file.read_text().strip() for file in files if file.exists()}
