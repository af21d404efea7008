"""The deciding parts of the local cluster, without a cluster."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from kaito_local import dns
from kaito_local.binaries import COMPONENTS, cache_folder, ensure, pinned_version
from kaito_local.certificates import CertificateAuthority
from kaito_local.command import run
from kaito_local.errors import CommandError, LocalError
from kaito_local.kubeconfig import write_kubeconfig
from kaito_local.network import Network, pod_bridge
from kaito_local.nodes.kubelet import may_label_itself
from kaito_local.nodes.slot import NodeSpec, Slot
from kaito_local.scratch_image import write_scratch_image


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 10.0.0.2\nnameserver 10.0.0.3\n", ["10.0.0.2", "10.0.0.3"]),
        ("nameserver 127.0.0.53\noptions edns0\n", []),
        ("# nameserver 10.0.0.2\nsearch example.com\nnameserver fe80::1%eth0\n", ["fe80::1%eth0"]),
        ("nameserver nonsense\nnameserver\n", []),
        ("", []),
    ],
)
def test_only_nameservers_that_a_pod_can_reach_are_asked(text: str, servers: list[str]) -> None:
    assert dns.upstream_servers(text) == servers


def test_without_upstreams_coredns_forwards_nothing() -> None:
    corefile = dns.manifests("image", "10.202.0.10", [])[3]["data"]["Corefile"]
    assert "forward" not in corefile
    assert "forward . 10.0.0.2\n" in dns.manifests("image", "10.202.0.10", ["10.0.0.2"])[3]["data"]["Corefile"]


@pytest.mark.parametrize(
    ("label", "allowed"),
    [
        ("agentpool", True),
        ("kubernetes.azure.com/agentpool", True),
        ("kaito.sh/workspace", True),
        ("node.kubernetes.io/instance-type", True),
        ("topology.kubernetes.io/zone", True),
        ("node-role.kubernetes.io/agent", False),
        ("kubernetes.io/role", False),
        ("example.k8s.io/x", False),
        ("notkubernetes.io/x", True),
    ],
)
def test_what_a_kubelet_may_say_of_itself(label: str, allowed: bool) -> None:
    assert may_label_itself(label) is allowed


def test_slots_share_no_address_and_no_name() -> None:
    network = Network()
    slots = [Slot(Path("/state"), network, number) for number in range(1, 33)]
    for attribute in ("address", "pod_subnet", "bridge", "cgroup", "folder", "socket"):
        assert len({getattr(slot, attribute) for slot in slots}) == len(slots), attribute
    assert all(len(pod_bridge(slot.number)) <= 15 for slot in slots)
    assert network.host_ip == slots[0].address == "10.200.0.1"
    assert network.dns_ip == "10.202.0.10"


def test_a_slot_remembers_its_node(tmp_path: Path) -> None:
    slot = Slot(tmp_path, Network(), 2)
    assert slot.node() is None
    spec = NodeSpec(name="n", pool="p", labels={"a": "b"}, taints=("k=v:NoSchedule",), gpus=2)
    slot.occupy(spec)
    assert Slot(tmp_path, Network(), 2).node() == spec
    slot.vacate()
    slot.vacate()
    assert slot.node() is None


def test_the_same_program_is_the_same_image(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    archives = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for archive in archives:
        write_scratch_image(archive, "example.com/program:1", program)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        content = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        blobs = {name: file.read() for name, file in content.items() if file}
    for name, blob in blobs.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(blob).hexdigest() == name.removeprefix("blobs/sha256/")
    manifest = json.loads(blobs["index.json"])["manifests"][0]
    assert manifest["annotations"]["io.containerd.image.name"] == "example.com/program:1"


def test_every_component_is_pinned_and_a_new_pin_is_a_new_folder() -> None:
    versions = {name: pinned_version(component) for name, component in COMPONENTS.items()}
    assert versions["kubelet"] == versions["kube-apiserver"] == versions["kubectl"]
    assert versions["kubelet"].startswith("1.")
    assert versions["etcd"].startswith("3.6.")
    assert versions["helm"].startswith("3.")
    assert versions["pause"] == "1"
    for name in ("kubelet", "etcd"):
        assert cache_folder(COMPONENTS[name]).name == f"bin-{versions['kubelet']}"
    for name in ("helm", "coredns", "pause"):
        assert cache_folder(COMPONENTS[name]).name == f"{name}-{versions[name]}"


async def test_assets_that_the_user_has_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "kube-apiserver"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert await ensure(("kube-apiserver",)) == {"kube-apiserver": own}


async def test_without_go_and_without_a_cache_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAITO_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(LocalError, match="KUBEBUILDER_ASSETS"):
        await ensure(("etcd",))


def test_keys_are_for_their_owner_only_and_a_kubeconfig_stands_alone(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "pki")
    path = write_kubeconfig(tmp_path / "u.kubeconfig", "https://127.0.0.1:1", authority, "u", ("g",))
    for file in (path, tmp_path / "pki" / "ca.key", tmp_path / "pki" / "u.key"):
        assert file.stat().st_mode & 0o777 == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["clusters"][0]["cluster"]["certificate-authority-data"]
    assert (
        CertificateAuthority(tmp_path / "pki").certificate_file.read_bytes() == authority.certificate_file.read_bytes()
    )


async def test_a_command_that_fails_hangs_or_is_missing_is_one_clear_error() -> None:
    with pytest.raises(CommandError, match="status 3: no luck"):
        await run("sh", "-c", "echo no luck >&2; exit 3")
    with pytest.raises(LocalError, match="did not end within"):
        await run("sleep", "30", timeout=0.1)
    with pytest.raises(LocalError, match="is not installed"):
        await run("no-such-program-of-kaito")
    assert await run("cat", stdin="fed") == "fed"
